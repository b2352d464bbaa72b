//! The command-line program `rewire`.

fn main() -> std::process::ExitCode {
    rewire::cli::main()
}
