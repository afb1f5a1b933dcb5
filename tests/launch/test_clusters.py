"""The scripts for clusters, with stand-ins for the programs that they call."""

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from dlm.machine import hosts, interrupts
from launch import rank_table
from tests.launch.shell import bash

ROOT = Path(__file__).parents[2]

# A run of two tasks as SLURM would have it: the first time both hear SIGTERM once they are at
# work, as from --signal.
SRUN = f"""#!{sys.executable}
import os, pathlib, signal, subprocess, sys
words, folder = sys.argv[1:], pathlib.Path(os.environ["STATE"])
options = {{words.pop(0) for _ in range(4)}}
expected = {{"--kill-on-bad-exit=0", "--wait=90", "--open-mode=append"}}
assert options == expected | {{"--output=%x-%j-%t.log"}}, options
proxies = [name for name in map(str.lower, os.environ) if name.endswith("_proxy")]
assert not set(proxies) - {{"no_proxy"}}
def start(i):
    environment = dict(os.environ, SLURM_PROCID=str(i))
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True)

tasks = [start(i) for i in range(2)]
said = [task.stdout.readline() for task in tasks]
if said == ["at work\\n"] * 2:
    for task in tasks:
        task.send_signal(signal.SIGTERM)
codes = [task.wait() for task in tasks]
with (folder / "steps").open("a") as log:
    print(said, codes, os.environ.get("SRUN_CPUS_PER_TASK"), file=log)
sys.exit(max(code if code >= 0 else 128 - code for code in codes))
"""
SCONTROL = """#!/bin/bash
echo "$@" >>"$STATE/requeued"
"""
# Works until it is told to stop, with the real watch and exit code; done the next time.
TRAIN = """\"\"\"Is one of several, by hosts.join.\"\"\"
import os, pathlib, sys, time
from dlm.app import cli
from dlm.machine import interrupts
def main(argv=None):
    mode, name = sys.argv[1], f"saved-{os.environ['SLURM_PROCID']}"
    saved = pathlib.Path(os.environ["STATE"]) / name
    if mode == "wrong":
        raise cli.UserError("no such recipe")
    if mode == "starting":
        print("at work", flush=True)
        time.sleep(60)
    if saved.exists():
        print("finished")
        return
    with interrupts.Watch() as told:
        print("at work", flush=True)
        while not told():
            time.sleep(0.01)
        saved.touch()
        raise interrupts.Preempted(3)
if __name__ == "__main__":
    cli.main(main)
"""


def stand_in(folder, **scripts):
    """A folder for PATH with these programs."""
    folder.mkdir(exist_ok=True)
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def test_a_slurm_job_saves_is_queued_again_and_goes_on(clone, tmp_path):
    root, env = clone
    (root / "dlm" / "train.py").write_text(TRAIN)
    tools = stand_in(tmp_path / "bin", srun=SRUN, scontrol=SCONTROL)
    (spool := tmp_path / "spool").mkdir()
    script = spool / "slurm_script"  # SLURM runs a copy
    script.write_bytes((root / "launch" / "slurm.sbatch").read_bytes())
    env |= dict(
        STATE=str(tmp_path),
        SLURM_JOB_ID="71",
        SLURM_SUBMIT_DIR=str(root),
        SLURM_CPUS_PER_TASK="6",
        https_proxy="http://proxy:1",
    )

    def job(*words):
        reply = bash(script, *words, **env, PATH=f"{tools}:{os.environ['PATH']}")
        requeued, steps = (tmp_path / name for name in ("requeued", "steps"))
        last = steps.read_text().splitlines()[-1] if steps.exists() else None
        return (
            reply.returncode,
            requeued.read_text().split("\n")[:-1] if requeued.exists() else [],
            last,
        )

    assert job("train", "well") == (
        75,
        ["requeue 71"],
        "['at work\\n', 'at work\\n'] [75, 75] 6",
    )
    assert job("train", "well") == (
        0,
        ["requeue 71"],
        "['finished\\n', 'finished\\n'] [0, 0] 6",
    )
    assert job("train", "wrong") == (2, ["requeue 71"], "['', ''] [2, 2] 6")
    assert job("train", "starting")[:2] == (143, ["requeue 71"] * 2), (
        "killed while it imported: nothing is lost"
    )
    assert (root / ".venv").is_dir() and (tmp_path / "log").read_text().count(
        "venv"
    ) == 1


def test_slurm_is_told_what_the_script_relies_on(clone, tmp_path):
    lines = (ROOT / "launch" / "slurm.sbatch").read_text().splitlines()
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in lines
        if line.startswith("#SBATCH")
    )
    assert "requeue" in options and options["open-mode"] == "append"
    assert f"$code == {interrupts.EXIT} " in "\n".join(lines)
    signal, seconds = options["signal"].split("@")
    assert signal == "TERM" and int(seconds) >= 120
    root, env = clone
    script = root / "launch" / "slurm.sbatch"
    dry = bash(
        script, "--dry_run", "train", "--x=a b", SLURM_SUBMIT_DIR=str(root), **env
    )
    assert (
        dry.returncode == 0
        and "srun " in dry.stdout
        and r"bash launch/local.sh train --x=a\ b" in dry.stdout
    )
    for words, where, line in (
        ([], root, "no command"),
        (["train"], tmp_path, "submit from the folder that holds launch/"),
        (["train"], root, "this is no SLURM job"),
    ):
        reply = bash(
            script, *words, SLURM_SUBMIT_DIR=str(where), SLURM_JOB_ID="", **env
        )
        assert (
            reply.returncode == 2
            and line in reply.stderr
            and reply.stderr.count("\n") == 1
        )
    assert not (root / ".venv").exists()


def test_the_job_set_names_its_processes_as_they_will_be_called():
    jobs = yaml.safe_load((ROOT / "launch" / "k8s-jobset.yaml").read_text())
    assert (jobs["apiVersion"], jobs["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (workers,) = jobs["spec"]["replicatedJobs"]
    job, network = workers["template"]["spec"], jobs["spec"]["network"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    assert (
        job["completionMode"] == "Indexed"
        and job["parallelism"] == job["completions"]
        and workers["replicas"] == 1
    )
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    index = next(
        entry for entry in container["env"] if entry["name"] == "JAX_PROCESS_ID"
    )["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    assert environment["JAX_NUM_PROCESSES"] == str(job["completions"])
    first, port = environment["JAX_COORDINATOR_ADDRESS"].split(":")
    assert (
        first
        == f"{jobs['metadata']['name']}-{workers['name']}-0-0.{network['subdomain']}"
    )
    assert network["enableDNSHostnames"] and network["publishNotReadyAddresses"], (
        "the first process is looked for before it is ready"
    )
    assert container["ports"] == [{"containerPort": int(port)}]
    assert (
        hosts._described(environment | dict(JAX_PROCESS_ID="0"))
        == "JAX_COORDINATOR_ADDRESS"
    )
    assert (
        container["command"][:2] == ["bash", "launch/local.sh"]
        and (ROOT / "dlm" / f"{container['command'][2]}.py").is_file()
    )
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in container["args"])
    assert (ROOT / flags["config"].split(":")[0]).is_file()
    claimed = {
        volume["name"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
    }
    shared = [
        mount["mountPath"]
        for mount in container["volumeMounts"]
        if mount["name"] in claimed
    ]
    assert any(flags["workdir"].startswith(f"{path}/") for path in shared), (
        "all processes, and the next ones, see the run directory"
    )


def test_the_job_set_starts_again_what_may_go_on_and_nothing_else():
    jobs = yaml.safe_load((ROOT / "launch" / "k8s-jobset.yaml").read_text())["spec"]
    job = jobs["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    assert (
        job["backoffLimit"] == 0
        and pod["restartPolicy"] == "Never"
        and jobs["failurePolicy"]["maxRestarts"] >= 10
    )
    assert pod["terminationGracePeriodSeconds"] >= 120
    (rule,), (final,) = job["podFailurePolicy"]["rules"], jobs["failurePolicy"]["rules"]
    assert (
        rule["action"] == "FailJob"
        and rule["onExitCodes"]["values"] == [2]
        and rule["onExitCodes"]["operator"] == "In"
    )
    assert rule["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert final == dict(action="FailJobSet", onJobFailureReasons=["PodFailurePolicy"])


# Runs the command on two workers, as gcloud does with --worker=all; the metadata server of each
# knows its number.
GCLOUD = """#!/bin/bash
echo "$@" | sed 's/ --command=.*//' >"$STATE/called"
for WORKER in 0 1; do
  export WORKER
  command="${@: -1}"
  bash -c "${command#--command=}"
done
"""
CURL = """#!/bin/bash
case "${@: -1}" in
  *://metadata.google.internal/*/instance/attributes/agent-worker-number) echo "$WORKER" ;;
  */worker-network-endpoints) echo "$ENDPOINTS" ;;
  *) exit 22 ;;
esac
"""
TOLD = """\"\"\"Is one of several, by hosts.join.\"\"\"
import os, sys
print(sys.argv[1:], *(f"{name}={os.environ.get(name)}" for name in os.environ["SHOW"].split()))
"""


@pytest.mark.parametrize(
    "endpoints", ["10.0.0.5,10.0.0.6", "a:b:10.0.0.5,a:c:10.0.0.6"]
)
def test_every_worker_of_a_tpu_pod_knows_its_place(endpoints, clone, tmp_path):
    root, env = clone
    (root / "dlm" / "train.py").write_text(TOLD)
    tools = stand_in(tmp_path / "bin", gcloud=GCLOUD, curl=CURL)
    env |= dict(
        STATE=str(tmp_path),
        ENDPOINTS=endpoints,
        SHOW="JAX_COORDINATOR_ADDRESS JAX_NUM_PROCESSES JAX_PROCESS_ID",
    )
    call = [
        root / "launch" / "tpu.sh",
        "--name=pod",
        "--zone=here",
        "--project=ours",
        f"--directory={root}",
    ]
    reply = bash(
        *call, "train", "--prompt=a 'b", **env, PATH=f"{tools}:{os.environ['PATH']}"
    )
    line = """["--prompt=a 'b"] JAX_COORDINATOR_ADDRESS=10.0.0.5:8476"""
    line += " JAX_NUM_PROCESSES=2 JAX_PROCESS_ID="
    assert [text for text in reply.stdout.splitlines() if "JAX" in text] == [
        f"{line}0",
        f"{line}1",
    ], reply.stdout
    assert (
        (tmp_path / "called").read_text()
        == "compute tpus tpu-vm ssh pod --zone=here --project=ours --worker=all\n"
    )


def test_a_tpu_pod_is_called_with_one_command(clone, tmp_path):
    root, env = clone
    script = root / "launch" / "tpu.sh"
    reply = bash(
        script, "--name=pod", "--zone=here", "--dry_run", "train", "--x=a b", **env
    )
    *words, command = shlex.split(reply.stdout)
    assert words == [
        "gcloud",
        "compute",
        "tpus",
        "tpu-vm",
        "ssh",
        "pod",
        "--zone=here",
        "--worker=all",
    ]
    assert command == r"--command=cd dlm && bash launch/tpu.sh --worker train --x=a\ b"
    tools = stand_in(tmp_path / "bin", curl="#!/bin/bash\nexit 22\n")
    for name in ("bash", "dirname"):  # and no gcloud, should this machine have one
        (tools / name).symlink_to(shutil.which(name))
    for flags, line in (
        (["train"], "--name and --zone are missing"),
        (["--name=pod", "--zone=here"], "no command"),
        (["--nam=pod", "train"], "unknown argument --nam=pod"),
        (["--name=pod", "--zone=here", "train"], "no gcloud"),
        (["--worker", "train"], "no agent-worker-number from the metadata server"),
    ):
        reply = bash(script, *flags, **env, PATH=str(tools))
        assert (
            reply.returncode == 2
            and line in reply.stderr
            and reply.stderr.count("\n") == 1
        ), reply.stderr


@pytest.fixture
def ascend(clone, tmp_path):
    """A host with two NPUs and a CANN whose script reads a variable that is not set."""
    root, env = clone
    (root / "dlm" / "train.py").write_text(TOLD)
    (toolkit := tmp_path / "Ascend" / "ascend-toolkit").mkdir(parents=True)
    (toolkit / "set_env.sh").write_text("export FROM_CANN=yes$NOT_SET\n")
    names = (
        "FROM_CANN HCCL_CONNECT_TIMEOUT HCCL_EXEC_TIMEOUT HCCL_DETERMINISTIC "
        "HCCL_SOCKET_IFNAME ASCEND_RT_VISIBLE_DEVICES"
    )
    tools = stand_in(
        tmp_path / "bin",
        ip="#!/bin/bash\necho default via 10.0.0.1 dev eth7 proto dhcp\n",
    )
    more = dict(
        SHOW=names,
        ASCEND_HOME=str(tmp_path / "Ascend"),
        ASCEND_RT_VISIBLE_DEVICES="2,3",
        PATH=f"{tools}:{os.environ['PATH']}",
    )
    return root / "launch" / "npu.sh", env | more


def test_ascend_gets_its_environment(ascend):
    script, env = ascend
    common = (
        "FROM_CANN=yes HCCL_CONNECT_TIMEOUT=600 HCCL_EXEC_TIMEOUT=1800 "
        "HCCL_DETERMINISTIC=true HCCL_SOCKET_IFNAME=eth7"
    )
    reply = bash(script, "train", "--x=1", **env)
    assert (
        reply.stdout
        == f"['--x=1', '--config.mesh.platform=npu'] {common} ASCEND_RT_VISIBLE_DEVICES=2,3\n"
    ), reply.stderr
    assert reply.returncode == 0
    two = bash(
        script,
        "--processes=2",
        "train",
        HCCL_IF_IP="10.0.0.9",
        HCCL_EXEC_TIMEOUT="5",
        **env,
    )
    common = common.replace("=1800", "=5").replace("=eth7", "=None")
    assert (
        two.stdout
        == f"['--config.mesh.platform=npu'] {common} ASCEND_RT_VISIBLE_DEVICES=2\n"
    )
    assert (
        f"[1] ['--config.mesh.platform=npu'] {common} ASCEND_RT_VISIBLE_DEVICES=3\n"
        in two.stderr
    )
    assert "--config" not in bash(script, "--dry_run", "show", **env).stdout, (
        "a run directory says what it ran on"
    )
    assert bash(script, "--dry_run", "preflight", **env).stdout.endswith(
        "launch.preflight --platform=npu\n"
    )


def test_what_ascend_lacks_is_one_line(ascend, tmp_path):
    script, env = ascend
    (broken := tmp_path / "ranks.json").write_text("{")
    cases = [
        (
            dict(ASCEND_HOME=str(tmp_path / "nowhere")),
            ["train"],
            "ascend-toolkit/set_env.sh: install CANN, or set ASCEND_HOME",
        ),
        (
            dict(ASCEND_RT_VISIBLE_DEVICES=""),
            ["train"],
            "no NPU: there is no /dev/davinci0",
        ),
        (dict(RANK_TABLE_FILE=str(broken)), ["train"], "ranks.json is not JSON"),
        ({}, ["--x", "train"], "unknown argument --x before the command"),
        ({}, [], "no command"),
    ]
    for changed, words, line in cases:
        reply = bash(script, *words, **env | changed)
        assert (
            reply.returncode == 2
            and line in reply.stderr
            and reply.stderr.count("\n") == 1
        ), reply.stderr
    dry = bash(
        script,
        "--dry_run",
        "--processes=2",
        "train",
        **env | dict(ASCEND_HOME=str(tmp_path / "no where")),
    )
    lines = dry.stdout.splitlines()
    assert (
        dry.returncode == 0
        and lines[0].startswith("source ")
        and r"no\ where/ascend-toolkit/set_env.sh" in lines[0]
    )
    assert (
        r"export ASCEND_RT_VISIBLE_DEVICES=2\,3" in lines
        and "export HCCL_SOCKET_IFNAME=eth7" in lines
    )
    assert len(lines) == 8 and all(
        line.endswith("python -P -m dlm.train --config.mesh.platform=npu")
        for line in lines[-2:]
    )


def test_a_rank_table_is_read_with_care(tmp_path, capsys):
    def device(rank, **changes):
        return (
            dict(
                device_id=str(rank % 2),
                device_ip=f"192.168.1.{rank + 1}",
                rank_id=str(rank),
            )
            | changes
        )

    servers = [
        dict(server_id=f"10.0.0.{s}", device=[device(2 * s), device(2 * s + 1)])
        for s in range(2)
    ]
    good = dict(
        status="completed", version="1.0", server_count="2", server_list=servers
    )
    assert (
        rank_table.mistake(good)
        == ""
        == rank_table.mistake(good | dict(server_count=2))
    )
    other = [servers[0], dict(server_id="x", device=[device(2), device(2)])]
    wrong = {
        "not a JSON object": [],
        "lacks version": {k: v for k, v in good.items() if k != "version"},
        "has status 'initializing'": good | dict(status="initializing"),
        "has server_count 3, but 2": good | dict(server_count="3"),
        "not a list of objects": good | dict(server_list=["x"]),
        "no device, in server_list[1]": good
        | dict(server_list=[servers[0], dict(server_id="x", device=[])]),
        "no server_id, or": good
        | dict(server_list=[servers[0], dict(device=servers[1]["device"])]),
        "lacks device_ip in server_list[0].device[1]": good
        | dict(
            server_list=[
                dict(servers[0], device=[device(0), device(1, device_ip="")]),
                servers[1],
            ]
        ),
        "has rank_id 0, 1, 2, 2: each number from 0 to 3": good
        | dict(server_list=other),
    }
    for line, table in wrong.items():
        assert line in rank_table.mistake(table)
    path = tmp_path / "ranks.json"
    for text, code in ((json.dumps(good), 0), ("[]", 2), ("{", 2)):
        path.write_text(text)
        assert rank_table.main(str(path)) == code
    assert (
        rank_table.main(str(tmp_path)) == 2
        and "cannot be read (" in capsys.readouterr().err
    )
