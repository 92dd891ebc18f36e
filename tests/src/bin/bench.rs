//! Measures Oxlan beside the kernel's own ways; `cargo xtask bench` builds and starts it.

use std::path::Path;

use anyhow::{Context, Result, bail};
use oxlan_tests::bench::{self, Effort};

fn main() -> Result<()> {
    let mut effort = Effort {
        rounds: 5,
        seconds: 3,
    };
    let mut directory = None;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--quick" => {
                effort = Effort {
                    rounds: 3,
                    seconds: 1,
                }
            }
            other if other.starts_with('-') => {
                bail!("unknown option {other}: --quick and a directory are allowed")
            }
            other => directory = Some(other.to_owned()),
        }
    }
    let directory = directory.context("name the directory for results")?;
    let report = bench::run(effort, &mut |text| eprintln!("{text}"))?;
    let markdown = report.markdown();
    write(&directory, "bench.md", &markdown)?;
    write(&directory, "bench.json", &format!("{:#}\n", report.json()))?;
    println!("{markdown}");
    Ok(())
}

fn write(directory: &str, name: &str, text: &str) -> Result<()> {
    let file = Path::new(directory).join(name);
    std::fs::create_dir_all(directory)
        .and_then(|()| std::fs::write(&file, text))
        .with_context(|| format!("cannot write {}", file.display()))
}
