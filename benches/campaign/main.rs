//! `cargo bench`: a campaign through the same call as `ridgepoint measure`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    // Cargo runs a bench in the folder of its package; suites of one's own and
    // results are named from the checkout's.
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    if std::env::current_dir().is_ok_and(|folder| folder == package)
        && let Some(checkout) = package.ancestors().nth(2)
        && let Err(why) = std::env::set_current_dir(checkout)
    {
        let why = format!("campaign: cannot work in {}: {why}\n", checkout.display());
        ridgepoint::output::write_remark(&why);
        return ExitCode::FAILURE;
    }
    ridgepoint::cmd::bench_main()
}
