//! Configurations of kernels: what a tuner may choose between.

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
