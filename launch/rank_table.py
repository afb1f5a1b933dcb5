"""Checks the table of an Ascend cluster (RANK_TABLE_FILE).

With a wrong table HCCL waits for its time limit.

python launch/rank_table.py FILE         exit code 2 and one line that names what is wrong
"""

import json
import sys
from pathlib import Path


def mistake(table) -> str:
    """Returns the mistake in a table, with the field's name; empty if there is none."""
    if not isinstance(table, dict):
        return "is not a JSON object"
    if missing := [
        field
        for field in ("status", "version", "server_count", "server_list")
        if field not in table
    ]:
        return f"lacks {missing[0]}"
    if table["status"] != "completed":
        return f"has status {table['status']!r}, not 'completed': it is still being written"

    # Counts are text in tables of some versions.
    servers = table["server_list"]
    if not isinstance(servers, list) or not all(
        isinstance(server, dict) for server in servers
    ):
        return "has a server_list that is not a list of objects"
    if str(table["server_count"]) != str(len(servers)):
        return f"has server_count {table['server_count']}, but {len(servers)} in its server_list"

    # Every device of every server has an address and a rank of its own.
    ranks = []
    for at, server in enumerate(servers):
        if (
            "server_id" not in server
            or not isinstance(server.get("device"), list)
            or not server["device"]
        ):
            return f"has no server_id, or no device, in server_list[{at}]"
        for place, device in enumerate(server["device"]):
            missing = [
                f
                for f in ("device_id", "device_ip", "rank_id")
                if not isinstance(device, dict) or not device.get(f)
            ]
            if missing:
                return f"lacks {missing[0]} in server_list[{at}].device[{place}]"
            ranks.append(str(device["rank_id"]))
    if sorted(ranks) != sorted(map(str, range(len(ranks)))):
        rule = f"each number from 0 to {len(ranks) - 1} must be there once"
        return f"has rank_id {', '.join(sorted(ranks))}: {rule}"
    return ""


def main(path: str) -> int:
    try:
        wrong = mistake(json.loads(Path(path).read_text(encoding="utf-8")))
    except OSError as error:
        wrong = f"cannot be read ({error.strerror})"
    except ValueError as error:
        wrong = f"is not JSON ({error})"
    if wrong:
        print(f"error: RANK_TABLE_FILE={path} {wrong}", file=sys.stderr)
    return 2 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
