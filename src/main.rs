//! The `ridgepoint` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ridgepoint::cmd::main()
}
