"""The named metrics of a benchmark run as one table: zonegate, dockerd, and the one as a part of the other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

METRICS = {
    "run_rm": ["total_ms", "cpu_ms"],
    "cli": ["run_rm_ms"],
    "exec": ["true_ms"],
    "start_stop": ["start_ms", "stop_ms"],
    "run_d": ["rm_f_ms"],
    "events": ["exit_to_wait_ms"],
    "par20": ["c20_cps"],
    "ps": ["list1000_ms"],
    "http": ["_ping_c1_rps"],
    "logs": ["read_MBps"],
    "echo": ["follow_ms"],
    "attach": ["stdout_logged_text_MBps"],
    "pull": ["gz_s", "gz_cpu_s", "floor_cpu_s", "zst_s", "rmi_s", "present_ms", "par3_s"],
    "save_load": ["save_s", "load_s"],
    "build": ["nocache_s", "cached_s"],
    "mem": ["idle_pss_MB"],
}


def main() -> None:
    """Print the table of the file that is named."""
    results = json.loads(Path(sys.argv[1]).read_text())["results"]
    print(f"\n{'':36}{'zonegate':>12}{'dockerd':>12}{'zonegate/dockerd':>18}")
    for bench, metrics in METRICS.items():
        rows = results.get(bench)
        if rows is None:
            continue
        for metric in metrics:
            values = rows["metrics"].get(metric, {})
            ours, theirs = (values.get(name, {}).get("med") for name in ("zonegate", "dockerd"))
            ratio = f"{ours / theirs:.2f}" if ours is not None and theirs else "-"
            texts = ["-" if value is None else f"{value:.2f}" for value in (ours, theirs)]
            print(f"{bench + '.' + metric:36}{texts[0]:>12}{texts[1]:>12}{ratio:>18}")
        for name, error in rows["errors"].items():
            print(f"{bench}: {name}: {error}")


if __name__ == "__main__":
    main()
