//! The byte audit: where the counters' bytes differ from those of the model and the kernel,
//! which of model, kernel and cache explains it.

use super::Measured;
use crate::op::Problem;
use crate::point::CacheState;
use crate::record::CounterRow;

/// Relative difference of bytes up to which the witnesses agree.
pub const BYTES_AGREE: f64 = 0.03;

/// Bytes read beside those of the problem that any launch has: its code, its parameters,
/// page tables. On an H100 they are between 0.03 and 0.6 MB.
pub const READ_SLACK_BYTES: f64 = 0.6e6;

/// Bytes written that any launch under the profiler has: on an H100, 2.2 to 2.5 MB of a kernel
/// that writes nothing.
pub const WRITE_SLACK_BYTES: f64 = 4e6;

/// From how many times as many bytes asked of L2 as the model and the kernel declare on, a
/// kernel counts on finding them there again. A plain read shows 1.25: its hits are sectors
/// of one line.
const READS_AGAIN: f64 = 1.5;

/// What a difference of bytes comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ByteFinding {
    /// There is none.
    Agrees,
    /// A cache kept bytes, or lost bytes that a kernel counts on.
    Cache,
    /// The kernel moves what it does not declare.
    Kernel,
    /// The model counts bytes that are not moved.
    Model,
}

impl ByteFinding {
    /// The spelling used in tables and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            ByteFinding::Agrees => "agrees",
            ByteFinding::Cache => "cache",
            ByteFinding::Kernel => "kernel",
            ByteFinding::Model => "model",
        }
    }
}

/// The audit of a point.
#[derive(Clone, Debug, PartialEq)]
pub struct ByteAudit {
    /// What is off.
    pub finding: ByteFinding,
    /// Why, in a sentence.
    pub why: String,
}

/// A direction's bytes, declared and counted.
struct Traffic<'a> {
    point: &'a Measured,
    row: &'a CounterRow,
    cache_bytes: f64,
}

impl Measured {
    /// Holds the counters' bytes against the model's and the kernel's; `None` without
    /// counters. `cache_bytes` is the capacity of the last-level cache, 0 where it is not
    /// known.
    pub fn byte_audit(&self, cache_bytes: u64) -> Option<ByteAudit> {
        let row = self.counters_row()?;
        let traffic = Traffic { point: self, row, cache_bytes: cache_bytes as f64 };
        let (read, written) = (row.dram_bytes_read?, row.dram_bytes_written?);
        let reads = traffic.reads(read);
        let writes = traffic.writes(written);
        Some(match (reads, writes) {
            (None, None) => {
                ByteAudit { finding: ByteFinding::Agrees, why: traffic.agreement() }
            }
            (Some(one), None) | (None, Some(one)) => one,
            (Some(reads), Some(writes)) => ByteAudit {
                finding: reads.finding.max(writes.finding),
                why: format!("{}; {}", reads.why, writes.why),
            },
        })
    }
}

impl Traffic<'_> {
    fn problem(&self) -> &Problem {
        &self.point.problem
    }

    fn extra(&self) -> f64 {
        self.point.bytes_extra.unwrap_or(0) as f64
    }

    fn agreement(&self) -> String {
        let written = self.row.dram_bytes_written.unwrap_or(0.0);
        let model = self.problem().work().bytes_written() as f64;
        let stays = model > WRITE_SLACK_BYTES && written < (1.0 - BYTES_AGREE) * model;
        match stays {
            true => format!("written bytes stay in L2: {} of {}", mb(written), mb(model)),
            false => String::new(),
        }
    }

    /// What is off with the reads, if anything is.
    fn reads(&self, read: f64) -> Option<ByteAudit> {
        let model = self.problem().work().bytes_read() as f64;
        // Partial results may be read back from L2 or from DRAM.
        let most = (1.0 + BYTES_AGREE) * (model + self.extra()) + READ_SLACK_BYTES;
        if read < (1.0 - BYTES_AGREE) * model {
            return Some(self.fewer_reads(read, model));
        }
        (read > most).then(|| self.more_reads(read, model))
    }

    fn fewer_reads(&self, read: f64, model: f64) -> ByteAudit {
        let point = self.point;
        let told = format!("DRAM read {} of the model's {}", mb(read), mb(model));
        let flushed = point.counters.as_ref().and_then(|c| c.all.as_ref()?.dram_bytes_read);
        let is_whole = flushed.is_some_and(|bytes| bytes >= (1.0 - BYTES_AGREE) * model);
        // Passes after the first find what the one before them left.
        let was_replayed = self.row.passes.is_none_or(|passes| passes > 1)
            && (point.work.bytes() as f64) < 2.0 * self.cache_bytes;
        let (finding, why) = match (flushed, point.cache, point.is_from_dram()) {
            _ if point.reuse().is_some() => (
                ByteFinding::Cache,
                "passes after the first find in a cache what it read".to_owned(),
            ),
            (Some(bytes), CacheState::Hot, _) if is_whole => (
                ByteFinding::Cache,
                format!("{} after a flush: the launch before left them in L2", mb(bytes)),
            ),
            (Some(bytes), CacheState::Cold, _) if is_whole => (
                ByteFinding::Cache,
                format!("{} after a flush: the rotation leaves them in L2", mb(bytes)),
            ),
            (Some(_), ..) => (
                ByteFinding::Model,
                "with nothing in the caches: the model counts bytes that are not read"
                    .to_owned(),
            ),
            (None, _, false) => {
                (ByteFinding::Cache, "its working set stays in a cache".to_owned())
            }
            (None, _, true) if was_replayed => (
                ByteFinding::Cache,
                "the profiler ran the kernel several times on the same buffers".to_owned(),
            ),
            (None, _, true) => (
                ByteFinding::Model,
                "from DRAM: the model counts bytes that are not read".to_owned(),
            ),
        };
        ByteAudit { finding, why: format!("{told}, {why}") }
    }

    fn more_reads(&self, read: f64, model: f64) -> ByteAudit {
        let declared = model + self.extra();
        let told = format!(
            "DRAM read {}, {:.2} times the {} of model and kernel",
            mb(read),
            read / declared,
            mb(declared)
        );
        let hits = self.row.l2_hit_share.unwrap_or(0.0).clamp(0.0, 0.9999);
        let asked = read / (1.0 - hits);
        if asked >= READS_AGAIN * declared.max(read) {
            return ByteAudit {
                finding: ByteFinding::Cache,
                why: format!(
                    "{told}: the kernel asks L2 for about {} and finds {:.0}% there; lines \
                     are driven out and read again",
                    mb(asked),
                    100.0 * hits
                ),
            };
        }
        let unknown = match self.point.bytes_extra {
            Some(_) => "",
            None => ", which does not say how much it adds",
        };
        ByteAudit {
            finding: ByteFinding::Kernel,
            why: format!("{told}: the kernel moves more than it declares{unknown}"),
        }
    }

    /// What is off with the writes, if anything is. Written lines stay in L2 until others
    /// drive them out, so fewer are normal up to the cache's capacity.
    fn writes(&self, written: f64) -> Option<ByteAudit> {
        let model = self.problem().work().bytes_written() as f64;
        let declared = model + self.extra();
        let most = (1.0 + BYTES_AGREE) * declared + WRITE_SLACK_BYTES;
        if written > most {
            let flushed = self
                .point
                .counters
                .as_ref()
                .and_then(|c| c.all.as_ref()?.dram_bytes_written);
            let told = format!(
                "DRAM wrote {} where model and kernel write {}",
                mb(written),
                mb(declared)
            );
            return Some(match flushed {
                Some(after) if after <= most && after < written => ByteAudit {
                    finding: ByteFinding::Cache,
                    why: format!(
                        "{told}, {} after a flush: lines that earlier launches wrote",
                        mb(after)
                    ),
                },
                _ => ByteAudit {
                    finding: ByteFinding::Kernel,
                    why: format!("{told}: the kernel writes more than it declares"),
                },
            });
        }
        let least = (1.0 - BYTES_AGREE) * (model - self.cache_bytes);
        let is_missing = self.cache_bytes > 0.0 && written < least;
        is_missing.then(|| ByteAudit {
            finding: ByteFinding::Model,
            why: format!(
                "DRAM wrote {} of the model's {}, and L2 holds {}: the model counts bytes that \
                 are not written",
                mb(written),
                mb(model),
                mb(self.cache_bytes)
            ),
        })
    }
}

/// Bytes in MB, with as many digits as tell 3% apart.
pub(crate) fn mb(bytes: f64) -> String {
    let mb = bytes * 1e-6;
    match mb {
        ..10.0 => format!("{mb:.2} MB"),
        ..1000.0 => format!("{mb:.1} MB"),
        _ => format!("{mb:.0} MB"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::analysis::Campaign;
    use crate::point::Point;
    use crate::record::{CacheControl, CountedRow, Records, Row, Run, Status, Witnesses};

    const L2: u64 = 52_428_800;

    /// A measured point with bytes of its kernel's own choice, as records have it.
    fn row(point: &str, residency: &str, extra: Option<u64>) -> Row {
        let point: Point = point.parse().unwrap();
        Row {
            point_id: point.id(),
            op: point.problem.op().to_string(),
            kernel: point.kernel.to_string(),
            cache_state: point.cache.to_string(),
            problem: point.problem.to_string(),
            status: Some(Status::Ok),
            residency: residency.into(),
            bytes_extra: extra,
            time_s_median: Some(1e-3),
            time_s_ci_lo: Some(1e-3),
            time_s_ci_hi: Some(1e-3),
            ..Row::default()
        }
    }

    /// MB read and written and the share of L2 hits, by the counters.
    type Seen = (f64, f64, f64);

    fn counters(row: &Row, control: CacheControl, passes: u64, seen: Seen) -> CounterRow {
        let (read, written) = (Some(1e6 * seen.0), Some(1e6 * seen.1));
        CounterRow {
            point_id: row.point_id.clone(),
            cache_control: control,
            passes: Some(passes),
            launches: 2,
            dram_bytes_read: read,
            dram_bytes_read_min: read,
            dram_bytes_read_max: read,
            dram_bytes_written: written,
            dram_bytes_written_min: written,
            dram_bytes_written_max: written,
            l2_hit_share: Some(seen.2),
            ..CounterRow::default()
        }
    }

    fn campaign(row: Row, counters: Vec<CounterRow>, counted: Vec<CountedRow>) -> Campaign {
        let mut run = Run::default();
        run.set("l2_bytes", L2);
        let witnesses = Witnesses { counters: Some(counters), counted: Some(counted) };
        let records =
            Records { runs: vec![run], rows: vec![row], witnesses, ..Records::default() };
        Campaign::from_records(Path::new("x"), records, None).unwrap()
    }

    /// The audit of a point that the counters saw so with flushed caches and as the
    /// rotation leaves them.
    fn audit(row: &Row, all: Option<Seen>, none: Option<Seen>) -> (ByteFinding, String) {
        let rows = [(CacheControl::All, all, 12), (CacheControl::None, none, 1)];
        let rows = rows.into_iter().filter_map(|(control, seen, passes)| {
            Some(counters(row, control, passes, seen?))
        });
        let campaign = campaign(row.clone(), rows.collect(), Vec::new());
        assert_eq!(campaign.unreadable, []);
        let audit = campaign.byte_audit(&campaign.points[0]).unwrap();
        (audit.finding, audit.why)
    }

    const DECODE: &str = "decode_attention:batch=64,context=8192,q_heads=32,kv_heads=8,\
        head_dim=128,dtype=bf16,kv_dtype=bf16,layout=contiguous@attention_decode@cold";
    const SKINNY: &str = "gemm:m=1,n=8192,k=8192,dtype=bf16@gemm_skinny@cold";
    const STREAM: &str = "stream:access=read,bytes=8388608@stream@hot";
    const PREFILL: &str = "prefill_attention:batch=1,prefix=0,new_tokens=8192,q_heads=32,\
        kv_heads=8,head_dim=128,causal=true,dtype=bf16,kv_dtype=bf16@attention_prefill@cold";

    /// As an H100 showed them.
    #[test]
    fn what_an_h100_moved_is_what_model_and_kernel_say() {
        let cases = [
            (row(DECODE, "dram", Some(2_156_544)), (2148.94, 3.73888, 0.0173)),
            (row(SKINNY, "dram", Some(341_600)), (136.474, 2.61453, 0.1653)),
            (
                row("stream:access=read,bytes=1073741824@stream@hot", "dram", Some(0)),
                (1073.77, 2.28454, 0.2035),
            ),
        ];
        for (row, seen) in cases {
            let (finding, why) = audit(&row, Some(seen), None);
            assert_eq!(
                (finding, why.as_str()),
                (ByteFinding::Agrees, ""),
                "{}",
                row.problem
            );
            let (finding, _) = audit(&row, Some(seen), Some(seen));
            assert_eq!(finding, ByteFinding::Agrees, "{}", row.problem);
        }
    }

    #[test]
    fn a_blocked_kernel_whose_lines_are_driven_out_reads_them_again() {
        let prefill = row(PREFILL, "dram", None);
        let (finding, why) = audit(&prefill, Some((121.051, 50.7976, 0.9484)), None);
        assert_eq!(finding, ByteFinding::Cache, "{why}");
        assert!(why.contains("1.20 times") && why.contains("95% there"), "{why}");
    }

    #[test]
    fn bytes_that_nobody_declared_are_the_kernels() {
        let skinny = row(SKINNY, "dram", Some(0));
        let (finding, why) = audit(&skinny, Some((180.0, 2.5, 0.2)), None);
        assert_eq!(finding, ByteFinding::Kernel, "{why}");
        let (finding, why) = audit(&skinny, Some((134.3, 50.0, 0.2)), None);
        assert_eq!(finding, ByteFinding::Kernel, "{why}");
        assert!(why.contains("writes more"), "{why}");
        // Lines that an earlier launch wrote are nobody's.
        let (finding, why) =
            audit(&skinny, Some((134.3, 2.5, 0.2)), Some((134.3, 50.0, 0.2)));
        assert_eq!(finding, ByteFinding::Cache, "{why}");
        // Kernel and cache at once are told both.
        let (finding, why) = audit(&skinny, Some((180.0, 50.0, 0.2)), None);
        assert_eq!(finding, ByteFinding::Kernel);
        assert!(why.contains("; "), "{why}");
    }

    #[test]
    fn what_a_cache_kept_is_told_from_what_the_model_counts_too_much() {
        let hot = row(STREAM, "L2", Some(0));
        let (finding, why) = audit(&hot, Some((8.4, 1.0, 0.2)), Some((0.1, 1.0, 0.99)));
        assert_eq!(finding, ByteFinding::Cache, "{why}");
        assert!(why.contains("8.40 MB after a flush"), "{why}");
        let (finding, why) = audit(&hot, None, Some((0.1, 1.0, 0.99)));
        assert_eq!(finding, ByteFinding::Cache, "{why}");
        // Of several passes a flush leaves the first alone to DRAM.
        for reuse in ["shared", "own"] {
            let text = format!("passes=64,reuse={reuse}@stream@hot");
            let again =
                row(&STREAM.replace("@stream@hot", &format!(",{text}")), "L2", Some(0));
            let (finding, why) =
                audit(&again, Some((8.4, 1.0, 0.9)), Some((0.1, 1.0, 0.99)));
            assert_eq!(finding, ByteFinding::Cache, "{why}");
            assert!(why.contains("passes after the first"), "{why}");
        }
        let cold = row(DECODE, "dram", Some(0));
        let (finding, why) = audit(&cold, Some((1000.0, 1.0, 0.0)), None);
        assert_eq!(finding, ByteFinding::Model, "{why}");
        let (finding, why) =
            audit(&cold, Some((2148.0, 1.0, 0.0)), Some((1000.0, 1.0, 0.5)));
        assert_eq!(finding, ByteFinding::Cache, "{why}");
        assert!(why.contains("rotation"), "{why}");
    }

    #[test]
    fn written_bytes_may_stay_in_l2_but_not_more_than_it_holds() {
        let write = |bytes: u64| {
            row(&format!("stream:access=write,bytes={bytes}@stream@hot"), "dram", Some(0))
        };
        let (finding, why) = audit(&write(40_000_000), Some((0.1, 3.0, 0.0)), None);
        assert_eq!(finding, ByteFinding::Agrees);
        assert!(why.contains("stay in L2"), "{why}");
        let (finding, why) = audit(&write(1 << 30), Some((0.1, 500.0, 0.0)), None);
        assert_eq!(finding, ByteFinding::Model, "{why}");
    }

    #[test]
    fn intensities_say_who_counted_their_flops() {
        use crate::analysis::FlopsSource;
        let row = row(SKINNY, "dram", Some(341_600));
        let model = 2.0 * 8192.0 * 8192.0;
        let seen = (136.474, 2.61453, 0.1653);
        let of = |flops: Option<f64>, counted: Vec<CountedRow>| {
            let mut by_counters = counters(&row, CacheControl::All, 12, seen);
            by_counters.tensor_flops = flops;
            let campaign = campaign(row.clone(), vec![by_counters], counted);
            campaign.points[0].intensity_measured().unwrap()
        };
        let bytes = 139.08853e6;
        let near = |value: f64, flops: f64| (value * bytes / flops - 1.0).abs() < 1e-6;
        let (value, source) = of(None, Vec::new());
        assert!(source == FlopsSource::Model && near(value, model), "{value}");
        // Tiles of 16 rows.
        let (value, source) = of(Some(16.0 * model), Vec::new());
        assert!(source == FlopsSource::Counters && near(value, 16.0 * model), "{value}");
        let (_, source) = of(Some(0.0), Vec::new());
        assert_eq!(source, FlopsSource::Model, "a counter that saw nothing");
        let counted = CountedRow {
            point_id: row.point_id.clone(),
            flops_counted: Some(3 * model as u64),
            bytes_counted: Some(1),
            ..CountedRow::default()
        };
        let (value, source) = of(None, vec![counted]);
        assert!(source == FlopsSource::VirtualMachine && near(value, 3.0 * model));
    }

    #[test]
    fn rows_of_other_campaigns_and_impossible_values_are_told() {
        let mine = row(SKINNY, "dram", Some(0));
        let seen = (136.474, 2.61453, 0.1653);
        let mut negative = counters(&mine, CacheControl::All, 1, seen);
        negative.dram_bytes_read = Some(-1.0);
        let foreign = CounterRow { point_id: "none".into(), ..negative.clone() };
        let campaign = campaign(mine, vec![negative, foreign], Vec::new());
        let told: Vec<String> = campaign.unreadable.iter().map(|u| u.to_string()).collect();
        assert!(told[0].starts_with("counters.csv line 2, column dram_bytes_read: `-1`"));
        assert!(told[1].starts_with("counters.csv line 3, column point_id: `none`"));
        assert_eq!(campaign.byte_audit(&campaign.points[0]), None);
    }
}
