//! Configurations of kernels: what a tuner may choose between.

use super::refusal::Refusal;

/// One way to build and launch a kernel: values of tunable parameters, such as threads of a
/// block, stages or splits. What it does not name the kernel chooses itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Configuration {
    /// Lower-case letters, digits and underscores; unique within its kernel.
    pub name: &'static str,
    /// Parameters with their values.
    pub parameters: &'static [(&'static str, u32)],
}

impl Configuration {
    /// What a kernel does where nothing else is asked for: the first of every search space.
    pub const DEFAULT: &'static Configuration = &Configuration::new("default", &[]);

    /// Rows are queued so that each launch may begin while the one before it drains, where
    /// the point asks for no launch mode; for kernels whose source waits for that launch
    /// (`overlap_previous` in `kernels/ptx.cuh`), on architectures that can.
    pub const PROGRAMMATIC: Configuration =
        Configuration::new("programmatic", &[(Configuration::OVERLAPS, 1)]);

    /// The same, and the first weights are fetched before the launch before is done, as
    /// engines do where layers follow each other: no launch writes weights. Everything else
    /// waits.
    pub const WEIGHTS_AHEAD: Configuration = Configuration::new(
        "weights_ahead",
        &[(Configuration::OVERLAPS, 1), (Configuration::AHEAD, 1)],
    );

    /// The parameters that say so.
    const OVERLAPS: &'static str = "programmatic";
    const AHEAD: &'static str = "ahead";

    /// A configuration of these parameters.
    pub const fn new(
        name: &'static str,
        parameters: &'static [(&'static str, u32)],
    ) -> Self {
        Configuration { name, parameters }
    }

    /// The value of a parameter, or what the kernel chooses itself.
    pub fn or(&self, parameter: &str, default: u32) -> u32 {
        let named = self.parameters.iter().find(|(name, _)| *name == parameter);
        named.map_or(default, |(_, value)| *value)
    }

    /// Whether it says anything of a parameter.
    pub fn names(&self, parameter: &str) -> bool {
        self.parameters.iter().any(|(name, _)| *name == parameter)
    }

    /// Whether launches of a row overlap, see [`Configuration::PROGRAMMATIC`].
    pub fn overlaps_launches(&self) -> bool {
        self.or(Configuration::OVERLAPS, 0) == 1
    }

    /// Whether weights are fetched early, see [`Configuration::WEIGHTS_AHEAD`].
    pub fn fetches_ahead(&self) -> bool {
        self.or(Configuration::AHEAD, 0) == 1
    }

    /// Whether it is the default.
    pub fn is_default(&self) -> bool {
        self.name == Configuration::DEFAULT.name
    }

    /// Its parameters as people read them, `threads = 256, unroll = 4`.
    pub fn spell(&self) -> String {
        let spelled =
            self.parameters.iter().map(|(name, value)| format!("{name} = {value}"));
        spelled.collect::<Vec<_>>().join(", ")
    }
}

/// A kernel's name and that of its configuration, of which `kernel.configuration` is the
/// text; no configuration where none is asked for.
pub fn split_name(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((kernel, configuration)) => (kernel, Some(configuration)),
        None => (text, None),
    }
}

/// What a kernel may be built and launched as, and which code that is said of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchSpace {
    /// The name of the kernel.
    pub kernel: &'static str,
    /// Its configurations, the default first.
    pub configurations: Vec<&'static Configuration>,
    /// First digits of the BLAKE3 hash of its source and of what that includes: what was
    /// measured of one source says nothing of another.
    pub source_hash: String,
}

impl SearchSpace {
    /// The search space of a kernel of these sources.
    pub fn new(
        kernel: &'static str,
        variants: &'static [Configuration],
        sources: impl IntoIterator<Item = &'static str>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new();
        for source in sources {
            hasher.update(source.as_bytes());
        }
        let source_hash = hasher.finalize().to_hex()[..12].to_owned();
        let configurations = [Configuration::DEFAULT].into_iter().chain(variants).collect();
        SearchSpace { kernel, configurations, source_hash }
    }

    /// The configuration of a name.
    ///
    /// # Errors
    /// A name that it has not, with those that it has.
    pub fn find(&self, name: &str) -> Result<&'static Configuration, Refusal> {
        let found = self.configurations.iter().find(|found| found.name == name);
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = self.configurations.iter().map(|c| c.name).collect();
            Refusal(format!(
                "the kernel `{}` has no configuration `{name}`; it has {}",
                self.kernel,
                known.join(", ")
            ))
        })
    }
}

/// A way to run a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The name of the kernel.
    pub kernel: &'static str,
    /// One of its configurations.
    pub configuration: &'static Configuration,
}
