//! Levels of caches, and which of them, or DRAM, holds the data of a point
//! between two uses. Devices tell their caches, the protocol works out where
//! data stay, records spell it and everything that reads records takes the
//! types from here.

use std::fmt;
use std::str::FromStr;

/// A level of cache: 2 is the L2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CacheLevel(u8);

impl CacheLevel {
    /// The first level, one for each core.
    pub const L1: CacheLevel = CacheLevel(1);
    /// The second level, the last one of a GPU.
    pub const L2: CacheLevel = CacheLevel(2);
    /// The third level.
    pub const L3: CacheLevel = CacheLevel(3);

    /// Level `level`, counted from 1; `None` outside of 1 to 9.
    pub const fn new(level: u32) -> Option<Self> {
        match level {
            1..=9 => Some(CacheLevel(level as u8)),
            _ => None,
        }
    }
}

impl fmt::Display for CacheLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl FromStr for CacheLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let level = text.strip_prefix('L').and_then(|digits| digits.parse().ok());
        level
            .and_then(CacheLevel::new)
            .ok_or_else(|| format!("`{text}` is not a cache level; those are L1 to L9"))
    }
}

/// A cache level with its capacity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSize {
    /// Which level.
    pub level: CacheLevel,
    /// Capacity summed over the whole device, in bytes.
    pub bytes: u64,
}

impl fmt::Display for CacheSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.level, self.bytes)
    }
}

impl FromStr for CacheSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let sized = text.split_once('=').and_then(|(level, bytes)| {
            let level = level.trim().parse().ok()?;
            let bytes = bytes.trim().parse().ok().filter(|bytes| *bytes > 0)?;
            Some(CacheSize { level, bytes })
        });
        sized.ok_or_else(|| {
            format!("`{}` is not a cache with its bytes, as `L2=4194304`", text.trim())
        })
    }
}

/// Caches as `run.csv` spells them: `L1=98304;L2=4194304`.
pub fn spell_caches(caches: &[CacheSize]) -> String {
    caches.iter().map(CacheSize::to_string).collect::<Vec<_>>().join(";")
}

/// Reads what [`spell_caches`] wrote; smallest first. Parts that cannot be read
/// come back as sentences that say why.
pub fn read_caches(text: &str) -> (Vec<CacheSize>, Vec<String>) {
    let (mut caches, mut unread) = (Vec::new(), Vec::new());
    for part in text.split([';', ',']).filter(|part| !part.trim().is_empty()) {
        match part.parse::<CacheSize>() {
            Ok(cache) => caches.push(cache),
            Err(why) => unread.push(why),
        }
    }
    caches.sort_by_key(|cache| cache.bytes);
    (caches, unread)
}

/// What holds the bytes of a point between two uses. The order is that of
/// tables: from near to far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Residency {
    /// A cache that holds them all.
    Cache(CacheLevel),
    /// The last-level cache may keep a part of them, the rest comes from DRAM.
    CacheAndDram(CacheLevel),
    /// DRAM: they are at least twice the last-level cache.
    Dram,
}

impl Residency {
    /// Of so many bytes on a device with these caches, smallest first.
    pub fn of(bytes: u64, caches: &[CacheSize]) -> Self {
        match (caches.iter().find(|cache| bytes <= cache.bytes), caches.last()) {
            (Some(cache), _) => Residency::Cache(cache.level),
            (None, Some(last)) if bytes < 2 * last.bytes => {
                Residency::CacheAndDram(last.level)
            }
            _ => Residency::Dram,
        }
    }
}

impl fmt::Display for Residency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Residency::Cache(level) => write!(f, "{level}"),
            Residency::CacheAndDram(level) => write!(f, "{level}+dram"),
            Residency::Dram => f.write_str("dram"),
        }
    }
}

impl FromStr for Residency {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = match (text, text.strip_suffix("+dram")) {
            ("dram", _) => Ok(Residency::Dram),
            (_, Some(level)) => level.parse().map(Residency::CacheAndDram),
            (_, None) => text.parse().map(Residency::Cache),
        };
        parsed.map_err(|_: String| "known are L1 to L9, L1+dram to L9+dram and dram".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_read_back() {
        for text in ["L1", "L3", "L2+dram", "dram"] {
            assert_eq!(text.parse::<Residency>().unwrap().to_string(), text);
        }
        for text in ["", "L", "L0", "L10", "DRAM", "dram+L2", "L2+", "cache"] {
            assert!(text.parse::<Residency>().is_err(), "{text}");
        }
    }

    #[test]
    fn caches_are_sorted_and_what_cannot_be_read_is_told() {
        let (caches, unread) =
            read_caches(" L2=4194304; L1 = 98304;L3=;nonsense;L4=-1;L5=inf");
        assert_eq!(spell_caches(&caches), "L1=98304;L2=4194304");
        assert_eq!(unread.len(), 4);
        assert!(unread[1].contains("`nonsense`"), "{unread:?}");
        assert_eq!(read_caches(""), (Vec::new(), Vec::new()));
    }
}
