"""Reads the records of a campaign with pandas: a table of decode attention, the noise of
its samples, and where the campaign's time went.

    python3 -m pip install pandas
    python3 examples/read_records.py [results/DIR]

docs/FORMAT.md describes the files and columns.
"""

import sys
from pathlib import Path

import pandas as pd

COMMITTED = "results/2026-11-23-cpu-intel-xeon-2c-quick"
default = Path(__file__).resolve().parent.parent / COMMITTED
folder = Path(sys.argv[1]) if len(sys.argv) > 1 else default

run = pd.read_csv(folder / "run.csv").iloc[-1]
results = pd.read_csv(folder / "results.csv")  # what was measured
points = pd.read_csv(folder / "points.csv")  # what follows from it
print(f"{run.device}, suite {run.suite}, {run.started_utc}, commit {run.git_sha[:7]}")
statuses = results.status.value_counts().to_dict()
print(f"{len(results)} of {run.planned_rows} planned rows: {statuses}\n")

# Points are joined to results by their id; the sentinel has one row for each repeat.
shapes = results[results.repeat == 0].filter(regex="^(point_id|shape_.*)$")
table = points.merge(shapes, on="point_id")
decode = table[table.op == "decode_attention"].sort_values("bytes")
shown = pd.DataFrame({
    "batch": decode.shape_batch.astype(int),
    "context": decode.shape_context.astype(int),
    "q heads": decode.shape_q_heads.astype(int),
    "KV heads": decode.shape_kv_heads.astype(int),
    "cache": decode.shape_kv_dtype + " " + decode.shape_layout,
    "OI": decode.oi_model_flops_per_byte.round(2),
    "us": (decode.time_s * 1e6).round(1),
    "GB/s": (decode.bytes_per_s / 1e9).round(1),
    "of roof": decode.fraction_of_roof.map("{:.0%}".format),
    "binding": decode.binding_roof,
})
print(shown.to_string(index=False), "\n")

# Samples: the spread of single measurements, relative to each row's median.
if (folder / "samples.csv").exists():
    samples = pd.read_csv(folder / "samples.csv")
    samples["launch_s"] = samples.elapsed_s / samples.launches
    by_row = samples.groupby(["point_id", "repeat"]).launch_s
    spread = (by_row.quantile(0.95) - by_row.quantile(0.05)) / by_row.median()
    print(
        f"{len(samples)} samples; from the 5th to the 95th percentile is "
        f"{spread.median():.1%} of the median in the middle row"
    )

seconds = results[["setup_s", "check_s", "warmup_s", "sample_s"]].sum()
print("seconds:", ", ".join(f"{name[:-2]} {value:.1f}" for name, value in seconds.items()))
