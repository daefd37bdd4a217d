//! Writes the man pages and the shell completions of `sigmad` to a folder: `make manual`.

use std::path::PathBuf;

use clap::ValueEnum as _;
use clap_complete::Shell;

fn main() -> std::io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from).expect("usage: manual FOLDER");
    std::fs::create_dir_all(&folder)?;
    let mut command = sigmad::config::command_line();
    clap_mangen::generate_to(command.clone(), &folder)?;
    for shell in Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut command, "sigmad", &folder)?;
    }
    Ok(())
}
