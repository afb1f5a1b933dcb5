"""Every command works for a user without a home, such as an unknown user of a container."""

import pytest

from dlm import evaluate, report, sample, train
from dlm.core.errors import UserError


@pytest.mark.slow
def test_nothing_needs_a_home_or_writes_to_a_folder_called_so(
    trained, tmp_path, monkeypatch, capsys
):
    recipe = trained("ar").with_suffix(".py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)
    for name in ("HOME", "DLM_CACHE", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    train.main([f"--config={recipe}", "--workdir=run"])
    evaluate.main(["--workdir=run", "--evals=compression"])
    sample.main(["--workdir=run", "--num=1"])
    report.main(["run"])
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(UserError, match="there is no such home"):
        train.main([f"--config={recipe}", "--workdir=~/run"])
