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
