//! Loads PTX files and says what is in them, or which instruction is refused:
//! `cargo run -p ptxvm --example load -- FILE...`

use std::process::ExitCode;

use ptxvm::Module;

fn main() -> ExitCode {
    let mut all_load = true;
    for path in std::env::args().skip(1) {
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) => {
                eprintln!("{path}: {error}");
                all_load = false;
                continue;
            }
        };
        match Module::parse(&text) {
            Ok(module) => {
                let kernels: Vec<_> = module.kernels().collect();
                println!("{path}: {}", kernels.join(", "));
            }
            Err(error) => {
                eprintln!("{path}: {error}");
                all_load = false;
            }
        }
    }
    if all_load { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
