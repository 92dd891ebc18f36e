//! A terminal on a machine's console.

use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::exec::exec;

/// Ctrl-], as telnet has it.
const ESCAPE: u8 = 0x1d;

/// Joins this terminal with a console until the escape key.
pub(super) fn open(console: &Path) -> Result<ExitCode> {
    let stream = UnixStream::connect(console).with_context(|| {
        format!(
            "nothing answers at {}: is the cluster up (`cargo xtask vm cluster --keep`)?",
            console.display()
        )
    })?;
    println!("Ctrl-] leaves this console; press Enter for a prompt");
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        exec(Command::new("stty").args(["raw", "-echo"]))?;
    }
    let joined = join(stream);
    if is_terminal {
        let _ = Command::new("stty").arg("sane").status();
    }
    println!();
    joined.map(|()| ExitCode::SUCCESS)
}

fn join(mut stream: UnixStream) -> Result<()> {
    let mut from_machine = stream.try_clone()?;
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_machine, &mut std::io::stdout().lock());
    });
    let mut buffer = [0; 256];
    let mut keyboard = std::io::stdin().lock();
    loop {
        let read = keyboard.read(&mut buffer)?;
        let keys = buffer.get(..read).unwrap_or_default();
        let end = keys.iter().position(|key| *key == ESCAPE);
        stream.write_all(keys.get(..end.unwrap_or(read)).unwrap_or_default())?;
        if end.is_some() || read == 0 {
            return Ok(());
        }
    }
}
