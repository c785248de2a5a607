//! What Nsight Compute prints with `--csv --page raw`, mixed with what the profiled program
//! prints: lines in `==...==` of the tool, then, after the program has ended, a header, a
//! line of units, and a row for each kernel that was profiled.

use std::collections::HashMap;

/// A quantity that is read off a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Metric {
    DramBytesRead,
    DramBytesWritten,
    L2HitShare,
    DramShare,
    TensorShare,
    IssueShare,
    WarpsShare,
    SmClock,
    Time,
    Passes,
}

impl Metric {
    /// All of them.
    pub const ALL: [Metric; 10] = [
        Metric::DramBytesRead,
        Metric::DramBytesWritten,
        Metric::L2HitShare,
        Metric::DramShare,
        Metric::TensorShare,
        Metric::IssueShare,
        Metric::WarpsShare,
        Metric::SmClock,
        Metric::Time,
        Metric::Passes,
    ];

    /// What is asked for where the caches are as the rotation leaves them. Few enough that
    /// the tool need not run the kernel often: every further pass finds what the one
    /// before it left in L2.
    pub const OF_TRAFFIC: [Metric; 4] =
        [Metric::DramBytesRead, Metric::DramBytesWritten, Metric::L2HitShare, Metric::Time];

    /// The tool's name of it.
    pub const fn column(self) -> &'static str {
        match self {
            Metric::DramBytesRead => "dram__bytes_read.sum",
            Metric::DramBytesWritten => "dram__bytes_write.sum",
            Metric::L2HitShare => "lts__t_sector_hit_rate.pct",
            Metric::DramShare => "dram__throughput.avg.pct_of_peak_sustained_elapsed",
            Metric::TensorShare => {
                "sm__pipe_tensor_op_hmma_cycles_active.avg.pct_of_peak_sustained_active"
            }
            Metric::IssueShare => "smsp__issue_active.avg.pct_of_peak_sustained_active",
            Metric::WarpsShare => "sm__warps_active.avg.pct_of_peak_sustained_active",
            Metric::SmClock => "sm__cycles_elapsed.avg.per_second",
            Metric::Time => "gpu__time_duration.sum",
            Metric::Passes => "profiler__replayer_passes",
        }
    }

    /// Whether it is asked for; the tool tells the passes by itself.
    pub const fn is_asked_for(self) -> bool {
        !matches!(self, Metric::Passes)
    }
}

/// Base names of the counters of FLOPs of the tensor units, which not every version of the
/// tool knows for every chip.
pub const TENSOR_FLOPS: [&str; 7] = [
    "sm__ops_path_tensor_src_bf16_dst_fp32",
    "sm__ops_path_tensor_src_fp16",
    "sm__ops_path_tensor_src_tf32_dst_fp32",
    "sm__ops_path_tensor_src_fp8",
    "sm__ops_path_tensor_src_int8",
    "sm__ops_path_tensor_src_fp64",
    "sm__ops_path_tensor_src_int4",
];

/// A launch of a kernel that was profiled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct KernelProfile {
    /// Name of the function.
    pub kernel: String,
    /// Blocks in x, y and z, as `(264, 1, 1)`.
    pub grid: String,
    /// Threads of a block in x, y and z.
    pub block: String,
    /// Values in SI units without prefixes, percentages as shares of 1. What the tool could
    /// not tell is missing.
    values: HashMap<String, f64>,
}

impl KernelProfile {
    /// The value of a metric, if the tool told it.
    pub fn value(&self, metric: Metric) -> Option<f64> {
        self.values.get(metric.column()).copied()
    }

    /// FLOPs of the tensor units, if any of their counters was told.
    pub fn tensor_flops(&self) -> Option<f64> {
        let told = |name: &&str| self.values.get(&format!("{name}.sum")).copied();
        let told: Vec<f64> = TENSOR_FLOPS.iter().filter_map(told).collect();
        (!told.is_empty()).then(|| told.iter().sum())
    }
}

/// The tool's output, taken apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Launches in the order in which they were profiled.
    pub kernels: Vec<KernelProfile>,
    /// What the tool said went wrong, and rows that cannot be read.
    pub errors: Vec<String>,
    /// Lines that the program printed.
    pub program: Vec<String>,
}

/// Columns of a table, and the factors of their units; `None` for an unknown unit.
#[derive(Default)]
struct Table {
    names: Vec<String>,
    factors: Option<Vec<Option<f64>>>,
}

impl Output {
    /// Takes apart what the tool and the program printed. No text is an error: what is
    /// neither the tool's nor a row is the program's.
    pub fn read(text: &str) -> Self {
        let mut output = Output::default();
        let mut table: Option<Table> = None;
        for line in text.lines().map(str::trim_end) {
            if let Some(said) = line.strip_prefix("==") {
                output.tool_line(said);
            } else if line.starts_with("\"ID\",") {
                let names = cells(line).unwrap_or_default();
                table = Some(Table { names, factors: None });
            } else if let Some(table) = table.as_mut().filter(|_| line.starts_with('"')) {
                output.row(table, line);
            } else if !line.is_empty() {
                output.program.push(line.to_owned());
            }
        }
        output
    }

    /// `PROF== Connected to process 688`, without its first two signs.
    fn tool_line(&mut self, said: &str) {
        let Some((kind, rest)) = said.split_once("==") else { return };
        let rest = rest.trim();
        let is_error = kind == "ERROR" || rest.starts_with("No kernels were profiled");
        if is_error && !self.errors.iter().any(|known| known == rest) {
            self.errors.push(rest.to_owned());
        }
    }

    fn row(&mut self, table: &mut Table, line: &str) {
        let Some(cells) = cells(line).filter(|cells| cells.len() == table.names.len())
        else {
            self.errors.push(format!("a row of the tool was cut: {:.60}", line));
            return;
        };
        let Some(factors) = &table.factors else {
            table.factors = Some(cells.iter().map(|unit| factor(unit)).collect());
            return;
        };
        let mut profile = KernelProfile::default();
        for ((name, cell), factor) in table.names.iter().zip(cells).zip(factors) {
            match name.as_str() {
                "Kernel Name" => profile.kernel = cell,
                "Grid Size" => profile.grid = cell,
                "Block Size" => profile.block = cell,
                _ => {
                    let value = number(&cell).zip(*factor).map(|(v, factor)| v * factor);
                    let finite = value.filter(|value| value.is_finite());
                    finite.and_then(|value| profile.values.insert(name.clone(), value));
                }
            }
        }
        self.kernels.push(profile);
    }
}

/// The cells of one line; `None` where it is not CSV.
fn cells(line: &str) -> Option<Vec<String>> {
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).from_reader(line.as_bytes());
    let record = reader.records().next()?.ok()?;
    Some(record.iter().map(str::to_owned).collect())
}

/// A number as the tool prints it, `1,073,766,144` or `93.33`.
fn number(cell: &str) -> Option<f64> {
    cell.replace(',', "").trim().parse().ok()
}

/// What a value in a unit is multiplied by to be in SI units without prefixes; `None` for
/// a unit that is not known, whose values are left out.
fn factor(unit: &str) -> Option<f64> {
    let bases =
        ["", "byte", "hz", "inst", "op", "ops", "pass", "cycle", "sector", "warp", "block"];
    let unit = unit.trim();
    match unit {
        "%" => return Some(0.01),
        "ns" | "nsecond" => return Some(1e-9),
        "us" | "usecond" => return Some(1e-6),
        "ms" | "msecond" => return Some(1e-3),
        "s" | "second" => return Some(1.0),
        _ => {}
    }
    let is_base = |text: &str| bases.iter().any(|base| text.eq_ignore_ascii_case(base));
    if is_base(unit) {
        return Some(1.0);
    }
    let mut chars = unit.chars();
    let scale = match chars.next()? {
        'K' | 'k' => 1e3,
        'M' => 1e6,
        'G' => 1e9,
        'T' => 1e12,
        _ => return None,
    };
    let base = chars.as_str();
    (!base.is_empty() && is_base(base)).then_some(scale)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The tool's own output, from an H100.
    fn sample() -> String {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ncu/raw.txt");
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn the_tools_own_output_is_read() {
        let output = Output::read(&sample());
        assert_eq!(output.errors, Vec::<String>::new());
        let kernels: Vec<&str> = output.kernels.iter().map(|k| k.kernel.as_str()).collect();
        assert_eq!(
            kernels,
            [
                "stream_read",
                "kv_read",
                "kv_read",
                "attention_decode",
                "gemm_skinny",
                "gemm_skinny",
                "attention_mla",
                "attention_mla_wgmma",
                "attention_prefill"
            ]
        );
        // Of the program, whose lines lie between the tool's.
        assert_eq!(output.program.len(), 12);
        assert!(output.program[0].starts_with("problem,kernel,status"));
    }

    /// Time in us, DRAM MB read and written, DRAM %, L2 hits %, clock in GHz, tensor %,
    /// issue % and warps %, as another reader of the same output tabled them.
    #[test]
    fn values_are_those_of_another_reader() {
        let expected: [(usize, &str, [f64; 9]); 4] = [
            (
                0,
                "(264, 1, 1)",
                [343.968, 1073.77, 2.28454, 93.33, 20.35, 1.97261, 0.0, 2.87, 49.65],
            ),
            (
                1,
                "(525, 1, 1)",
                [701.344, 2147.66, 2.33549, 91.45, 20.62, 1.97925, 0.0, 2.52, 49.11],
            ),
            (
                3,
                "(264, 1, 1)",
                [701.184, 2148.94, 3.73888, 91.58, 1.73, 1.81444, 7.94, 14.46, 12.41],
            ),
            (
                6,
                "(132, 1, 1)",
                [426.816, 1217.34, 8.07629, 85.65, 2.39, 1.8129, 13.95, 23.89, 12.44],
            ),
        ];
        let metrics = [
            (Metric::Time, 1e6),
            (Metric::DramBytesRead, 1e-6),
            (Metric::DramBytesWritten, 1e-6),
            (Metric::DramShare, 100.0),
            (Metric::L2HitShare, 100.0),
            (Metric::SmClock, 1e-9),
            (Metric::TensorShare, 100.0),
            (Metric::IssueShare, 100.0),
            (Metric::WarpsShare, 100.0),
        ];
        let output = Output::read(&sample());
        for (at, grid, values) in expected {
            let profile = &output.kernels[at];
            assert_eq!(profile.grid, grid);
            for ((metric, scale), value) in metrics.into_iter().zip(values) {
                let read = profile.value(metric).unwrap() * scale;
                let close = (read - value).abs() <= 1e-5 * value.abs() + 1e-9;
                assert!(close, "{} {metric:?}: {read} and {value}", profile.kernel);
            }
            assert_eq!(profile.value(Metric::Passes), Some(12.0));
            assert_eq!(profile.tensor_flops(), None);
        }
    }

    const HEADER: &str = "\"ID\",\"Kernel Name\",\"Grid Size\",\"Block Size\",\
        \"dram__bytes_read.sum\",\"gpu__time_duration.sum\",\"lts__t_sector_hit_rate.pct\"\n";

    #[test]
    fn units_are_those_of_the_units_line() {
        for (units, time, bytes) in
            [("byte|ns", 2e-9, 1.5), ("Kbyte|us", 2e-6, 1.5e3), ("Mbyte|ms", 2e-3, 1.5e6)]
        {
            let (of_bytes, of_time) = units.split_once('|').unwrap();
            let text = format!(
                "{HEADER}\"\",\"\",\"\",\"\",\"{of_bytes}\",\"{of_time}\",\"%\"\n\
                 \"0\",\"k\",\"(1, 1, 1)\",\"(32, 1, 1)\",\"1.5\",\"2\",\"n/a\"\n"
            );
            let profile = &Output::read(&text).kernels[0];
            let read = profile.value(Metric::DramBytesRead).unwrap();
            assert!((read / bytes - 1.0).abs() < 1e-12, "{units}: {read}");
            assert!((profile.value(Metric::Time).unwrap() / time - 1.0).abs() < 1e-12);
            assert_eq!(profile.value(Metric::L2HitShare), None, "n/a");
        }
        assert_eq!(factor("furlong"), None);
        assert_eq!(factor("Gfurlong"), None);
        assert_eq!(factor("Ghz"), Some(1e9));
    }

    #[test]
    fn what_went_wrong_is_told_once() {
        let text = "==PROF== Connected to process 1 (x)\n==ERROR== ERR_NVGPUCTRPERM - The \
                    user does not have permission\n==ERROR== ERR_NVGPUCTRPERM - The user \
                    does not have permission\n==WARNING== No kernels were profiled.\n";
        let output = Output::read(text);
        assert_eq!(output.errors.len(), 2, "{:?}", output.errors);
        assert!(output.errors[0].starts_with("ERR_NVGPUCTRPERM"));
    }

    #[test]
    fn a_row_that_was_cut_is_told() {
        let sample = sample();
        let end = sample.trim_end().len() - 200;
        let output = Output::read(&sample[..end]);
        assert_eq!(output.kernels.len(), 8);
        assert!(output.errors[0].contains("was cut"), "{:?}", output.errors);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "(?s).{0,400}") {
            Output::read(&text);
            Output::read(&format!("{HEADER}{text}"));
        }

        #[test]
        fn no_part_of_the_output_panics(
            from in 0.0..1.0,
            length in 0..4000usize,
            at in 0.0..1.0,
            put in "[\"',\n=0-9a-z%]{0,8}",
        ) {
            let sample = sample();
            let place = |share: f64| (share * sample.len() as f64) as usize;
            let (from, at) = (place(from), place(at));
            let to = (from + length).min(sample.len());
            if sample.is_char_boundary(from) && sample.is_char_boundary(to) {
                Output::read(&sample[from..to]);
            }
            if sample.is_char_boundary(at) {
                let (before, after) = sample.split_at(at);
                Output::read(&format!("{before}{put}{after}"));
            }
        }
    }
}
