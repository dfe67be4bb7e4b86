//! The command line. All it does is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    longshore::cli::main()
}
