//! Errors before a launch.

use thiserror::Error;

/// Why a module could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("PTX line {line}{}: {message}", place(.source_line))]
pub struct ParseError {
    /// Line of the PTX text, from 1.
    pub line: u32,
    /// Source file and line, where the PTX has `.loc`.
    pub source_line: Option<(String, u32)>,
    /// What is wrong, with the instruction's text where there is one.
    pub message: String,
    /// Whether no kernel of the module can run, as an assembler would not accept it.
    pub(crate) whole_module: bool,
}

fn place(source: &Option<(String, u32)>) -> String {
    source.as_ref().map(|(file, line)| format!(" ({file}:{line})")).unwrap_or_default()
}

impl ParseError {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, source_line: None, message: message.into(), whole_module: false }
    }

    /// The same error, at this place of the source.
    pub(crate) fn at(self, source_line: Option<(String, u32)>) -> Self {
        Self { source_line, ..self }
    }

    /// The same error, which concerns the whole module.
    pub(crate) fn of_module(self) -> Self {
        Self { whole_module: true, ..self }
    }
}
