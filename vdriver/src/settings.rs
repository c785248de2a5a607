//! The environment.

use std::path::PathBuf;

use crate::faults::Faults;

/// What a test asks of the driver.
#[derive(Debug)]
pub struct Settings {
    /// Multiprocessors.
    pub sms: u32,
    /// Device memory, in bytes.
    pub memory_bytes: u64,
    /// Host memory that can be pinned, in bytes.
    pub host_bytes: u64,
    /// What goes wrong.
    pub faults: Faults,
    /// Where the number of calls of each function is written.
    pub calls: Option<PathBuf>,
}

impl Settings {
    /// Reads the environment, by name without the prefix.
    ///
    /// # Errors
    /// A value that cannot be read.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let number = |name: &str, default: u64| match variable(name) {
            None => Ok(default),
            Some(text) => match text.parse() {
                Ok(value) if value > 0 => Ok(value),
                _ => Err(format!("{PREFIX}{name}={text}: give a number above 0")),
            },
        };
        let faults = variable("FAULTS").unwrap_or_default();
        Ok(Settings {
            sms: number("SMS", 2)?.min(132) as u32,
            memory_bytes: number("MEMORY_BYTES", 1 << 30)?,
            host_bytes: number("HOST_BYTES", 1 << 30)?,
            faults: faults.parse().map_err(|why| format!("{PREFIX}FAULTS: {why}"))?,
            calls: variable("CALLS").map(PathBuf::from),
        })
    }

    /// Reads this process's environment.
    ///
    /// # Errors
    /// A value that cannot be read.
    pub fn of_this_process() -> Result<Self, String> {
        Self::read(|name| std::env::var(format!("{PREFIX}{name}")).ok())
    }
}

/// Of all variables.
const PREFIX: &str = "RIDGEPOINT_VDRIVER_";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_with_the_variables_name() {
        let read = |name: &'static str, value: &'static str| {
            Settings::read(move |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(read("SMS", "3").unwrap().sms, 3);
        assert_eq!(read("OTHER", "3").unwrap().sms, 2);
        for (name, value) in [("SMS", "0"), ("MEMORY_BYTES", "1k"), ("FAULTS", "x")] {
            let why = read(name, value).unwrap_err();
            assert!(why.contains(&format!("RIDGEPOINT_VDRIVER_{name}")), "{why}");
        }
    }
}
