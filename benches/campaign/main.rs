//! `cargo bench`: a campaign through the same call as `ridgepoint measure`.

use std::process::ExitCode;

fn main() -> ExitCode {
    ridgepoint::cmd::bench_main()
}
