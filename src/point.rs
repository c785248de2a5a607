//! One thing to measure: a problem, the kernel that solves it and the state of
//! the caches. Its text runs it alone, `op:key=value,...@kernel@cold`, and its
//! id, a hash of that text, joins it across files and campaigns.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use crate::op::{Problem, ProblemError};

/// Revision of the measuring protocol. It is part of every id: rows measured
/// under different rules must not be joined. 1 was one layout of a point's
/// buffers; 2 is rounds, each laid out anew; 3 times rows of launches as graphs on
/// devices that have them.
pub const PROTOCOL: &str = "3";

/// Reads and writes an enum by its `name`; `$what` ends the sentence about another text.
macro_rules! spelled {
    ($kind:ident, $what:literal) => {
        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $kind {
            type Err = String;

            fn from_str(text: &str) -> Result<Self, String> {
                let found = $kind::ALL.into_iter().find(|kind| kind.name() == text);
                found.ok_or_else(|| format!(concat!("`{}` is not ", $what), text))
            }
        }
    };
}

/// What the caches hold when a launch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CacheState {
    /// Nothing of the launch's inputs: buffers rotate, and at least twice the
    /// last-level cache is touched before any byte is touched again.
    Cold,
    /// What the previous launch left there: one set of buffers, used again and
    /// again.
    Hot,
}

impl CacheState {
    /// Both states, in the order in which tables list them.
    pub const ALL: [CacheState; 2] = [CacheState::Cold, CacheState::Hot];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            CacheState::Cold => "cold",
            CacheState::Hot => "hot",
        }
    }
}

spelled!(CacheState, "a cache state; write `cold` or `hot`");

/// How the launches of a timed row reach a device that has a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LaunchMode {
    /// As nodes of a graph, which is queued as one: what serving engines do.
    Graph,
    /// One by one.
    Stream,
    /// As nodes of a graph, each of which may begin while the one before it drains
    /// (programmatic dependent launch).
    Programmatic,
}

impl LaunchMode {
    /// All of them, in the order in which tables list them.
    pub const ALL: [LaunchMode; 3] =
        [LaunchMode::Graph, LaunchMode::Stream, LaunchMode::Programmatic];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            LaunchMode::Graph => "graph",
            LaunchMode::Stream => "stream",
            LaunchMode::Programmatic => "programmatic",
        }
    }
}

spelled!(LaunchMode, "a launch mode; write `graph`, `stream` or `programmatic`");

/// What the device did before it is measured, which decides its clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Load {
    /// It rested: the first 50 ms of work.
    Burst,
    /// It did the same for 2 s and more, so that heat and the limit of its power decide.
    Sustained,
    /// It ran other libraries' kernels on the same problem, which take turns with this one.
    /// Only `ridgepoint peers` measures so; suites cannot ask for it.
    InTurn,
}

impl Load {
    /// All of them, in the order in which tables list them.
    pub const ALL: [Load; 3] = [Load::Burst, Load::Sustained, Load::InTurn];

    /// The spelling used in suites, ids and CSV files.
    pub const fn name(self) -> &'static str {
        match self {
            Load::Burst => "burst",
            Load::Sustained => "sustained",
            Load::InTurn => "in_turn",
        }
    }
}

spelled!(Load, "a load; write `burst` or `sustained`");

/// A problem, its kernel and its cache state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Point {
    /// What is asked.
    pub problem: Problem,
    /// The kernel that does it.
    pub kernel: KernelName,
    /// What the caches hold.
    pub cache: CacheState,
    /// How rows of launches are queued; `None` for the best way that the device has.
    pub launch: Option<LaunchMode>,
    /// What the device did before; `None` for a warm-up as the suite has it.
    pub load: Option<Load>,
}

impl Point {
    /// Twelve hexadecimal digits that stay the same wherever and whenever the
    /// point is measured under the same protocol.
    pub fn id(&self) -> String {
        self.id_under(PROTOCOL)
    }

    /// The id that it has when it is measured under another revision of the protocol.
    pub fn id_under(&self, protocol: &str) -> String {
        let text = format!("{self}@protocol{protocol}");
        blake3::hash(text.as_bytes()).to_hex()[..12].to_owned()
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}@{}", self.problem, self.kernel, self.cache)?;
        self.launch.map_or(Ok(()), |launch| write!(f, "@{launch}"))?;
        self.load.map_or(Ok(()), |load| write!(f, "@{load}"))
    }
}

impl FromStr for Point {
    type Err = ProblemError;

    fn from_str(text: &str) -> Result<Self, ProblemError> {
        let error = |message: String| ProblemError::whole(message);
        let mut parts = text.split('@');
        let (Some(problem), Some(kernel), Some(cache)) =
            (parts.next(), parts.next(), parts.next())
        else {
            return Err(error(format!(
                "`{text}` is not a point; write `op:key=value,key=value@kernel@cold`"
            )));
        };
        let (mut launch, mut load) = (None, None);
        for part in parts {
            match (part.parse::<LaunchMode>(), part.parse::<Load>()) {
                (Ok(mode), _) if launch.is_none() && load.is_none() => launch = Some(mode),
                (_, Ok(of_device)) if load.is_none() => load = Some(of_device),
                _ => {
                    return Err(error(format!(
                        "`{text}` is not a point: what may follow the cache state is a launch \
                         mode, `graph`, `stream` or `programmatic`, and then a load, `burst`, \
                         `sustained` or `in_turn`"
                    )));
                }
            }
        }
        Ok(Point {
            problem: problem.parse()?,
            kernel: kernel.parse().map_err(error)?,
            cache: cache.parse().map_err(error)?,
            launch,
            load,
        })
    }
}

/// The name of a kernel: of a CUDA kernel of this program (`gemm`), of one for the
/// CPU (`cpu_gemm`), or of another library. Where a point asks for one of a kernel's
/// configurations its name follows behind a dot, `stream.looped`. It becomes part of ids and
/// commands, so both have lower-case letters, digits and underscores only.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName(String);

impl KernelName {
    /// Stands where the device has no kernel for the problem.
    pub fn none() -> Self {
        KernelName("none".to_owned())
    }
}

impl Deref for KernelName {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for KernelName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let is_word = |word: &str| !word.is_empty() && word.chars().all(plain);
        match name.split('.').count() <= 2 && name.split('.').all(is_word) {
            true => Ok(KernelName(name.to_owned())),
            false => Err(format!(
                "`{name}` is not a kernel name; those have lower-case letters, digits and \
                 underscores, and may be followed by a configuration's, `kernel.configuration`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "decode_attention:batch=8,context=1024,q_heads=32,kv_heads=8,\
                        head_dim=128,dtype=bf16,kv_dtype=bf16,layout=paged16@cpu@cold";

    #[test]
    fn text_parses_back() {
        let launched = LaunchMode::ALL.map(|mode| format!("{TEXT}@{mode}"));
        let loaded = Load::ALL.map(|load| format!("{TEXT}@{load}"));
        let both = [
            format!("{TEXT}@stream@sustained"),
            TEXT.replace("@cpu@", "@cpu.blocks_of_64@"),
        ];
        let all = [&launched[..], &loaded, &both].concat();
        for text in std::iter::once(TEXT).chain(all.iter().map(String::as_str)) {
            let point: Point = text.parse().unwrap();
            assert_eq!(point.to_string(), text);
        }
    }

    #[test]
    fn id_is_pinned_and_depends_on_every_part() {
        let id = |text: &str| text.parse::<Point>().unwrap().id();
        let base = id(TEXT);
        assert_eq!(base, "8c023c0292d4");
        let changes = [
            ("=8,con", "=9,con"),
            ("@cpu", "@gpu"),
            ("@cold", "@hot"),
            ("d16@", "d32@"),
            ("@cpu", "@cpu.x"),
        ];
        for (from, to) in changes {
            assert_ne!(id(&TEXT.replace(from, to)), base, "{from} -> {to}");
        }
        for more in ["graph", "stream", "programmatic", "burst", "sustained"] {
            assert_ne!(id(&format!("{TEXT}@{more}")), base, "{more}");
        }
    }

    #[test]
    fn another_protocol_gives_another_id() {
        let point = TEXT.parse::<Point>().unwrap();
        assert_eq!(point.id_under(PROTOCOL), point.id());
        assert_ne!(point.id_under("0"), point.id());
        // Of campaigns that are published.
        assert_eq!(point.id_under("1"), "1b9417b0fbf5");
        assert_eq!(point.id_under("2"), "b5939b3d21a2");
    }

    #[test]
    fn malformed_points_say_what_to_write() {
        for text in [
            "",
            "gemm:m=1,n=1,k=1,dtype=f32@$(x)@hot",
            "gemm:m=1",
            "gemm:m=1,n=1,k=1,dtype=f32@x@warm",
            "a@b@c@d",
            "gemm:m=1,n=1,k=1,dtype=f32@x@hot@queue",
            "gemm:m=1,n=1,k=1,dtype=f32@x@hot@graph@y",
            "gemm:m=1,n=1,k=1,dtype=f32@x@hot@burst@graph",
            "gemm:m=1,n=1,k=1,dtype=f32@x@hot@burst@burst",
            "gemm:m=1,n=1,k=1,dtype=f32@x.@hot",
            "gemm:m=1,n=1,k=1,dtype=f32@.y@hot",
            "gemm:m=1,n=1,k=1,dtype=f32@x.y.z@hot",
        ] {
            assert!(text.parse::<Point>().is_err(), "{text}");
        }
    }
}
