//! The macros that a source is compiled with.

use std::fmt;

/// Macros that a source is compiled with: names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Defines(pub Vec<(&'static str, String)>);

impl Defines {
    /// No macros yet.
    pub fn new() -> Self {
        Defines::default()
    }

    /// With one more macro.
    pub fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.0.push((name, value.to_string()));
        self
    }

    /// Whether there is a macro of this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| *known == name)
    }

    /// As compiler options, `-DNAME=VALUE`.
    pub fn options(&self) -> Vec<String> {
        self.0.iter().map(|(name, value)| format!("-D{name}={value}")).collect()
    }
}

impl fmt::Display for Defines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<String> =
            self.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        f.write_str(if pairs.is_empty() { "no macros" } else { "" })?;
        f.write_str(&pairs.join(" "))
    }
}
