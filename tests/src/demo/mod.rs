//! The demonstration: three nodes on this machine, pods that talk, and what there is to see of it.

mod crash;
mod echo;
mod ending;
mod explore;
mod facts;
mod hops;
mod interrupt;
mod packet;
mod programs;
mod reach;
mod screen;
mod serve;
mod servers;
mod stage;
mod walk;

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, ensure};

use crate::cluster::{Cluster, Shape};
use crate::scope::{self, Scope};
use ending::Done;
use screen::Screen;

/// What everything is named after. Fixed, so that `--down` finds it.
const PREFIX: &str = "oxdemo";

/// Exit code of a program that ended because of SIGINT, by the shells' convention.
const INTERRUPTED: u8 = 130;

/// Runs the demonstration and removes everything, or leaves it running to be explored.
#[must_use]
pub fn run(keep: bool) -> ExitCode {
    code(perform(keep))
}

/// Removes what a demonstration has left running.
#[must_use]
pub fn down() -> ExitCode {
    code(remove())
}

/// Serves HTTP on port 80 of the namespace it runs in and tells each client its address.
#[must_use]
pub fn serve(name: &str) -> ExitCode {
    code(serve::serve(name).map(|()| ExitCode::SUCCESS))
}

fn code(result: Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn perform(keep: bool) -> Result<ExitCode> {
    let _only = claim()?;
    interrupt::watch()?;
    let screen = Screen::new();
    match show(screen, keep) {
        // Whatever failed, failed because of the interruption.
        Err(_) if interrupt::seen() => {
            println!("\nInterrupted; everything is removed.");
            Ok(ExitCode::from(INTERRUPTED))
        }
        ended => ended,
    }
}

fn show(mut screen: Screen, keep: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    if left() {
        screen.say("An earlier demo is still there and is removed first.");
        scope::remove(PREFIX);
    }
    let kernel = nix::sys::utsname::uname()?;
    screen.say(&format!(
        "Oxlan on kernel {}: three nodes and six pods on this machine.",
        kernel.release().to_string_lossy()
    ));
    let mut cluster = Cluster::create(Scope::named(PREFIX)?, Shape::nodes(3))?;
    let played = play(&mut screen, &cluster);
    interrupt::check()?;
    if keep {
        cluster.keep();
    }
    match played {
        Ok(done) if screen.failures().is_empty() => {
            ending::good(&screen, &done, begin.elapsed(), keep);
            Ok(ExitCode::SUCCESS)
        }
        played => {
            ending::bad(&screen, played.err().as_ref(), &cluster, keep);
            Ok(ExitCode::FAILURE)
        }
    }
}

/// All acts, in order.
fn play(screen: &mut Screen, cluster: &Cluster) -> Result<Done> {
    stage::start_agents(screen, cluster)?;
    let stage = stage::start_pods(screen, cluster)?;
    let pairs = reach::show(screen, &stage)?;
    programs::show(screen, &stage)?;
    walk::local(screen, &stage)?;
    walk::remote(screen, &stage)?;
    let datagrams = crash::show(screen, &stage)?;
    Ok(Done {
        pairs,
        datagrams,
        commands: explore::groups(&stage)?,
    })
}

fn remove() -> Result<ExitCode> {
    let _only = claim()?;
    if !left() {
        println!("There is no demo to remove.");
        return Ok(ExitCode::SUCCESS);
    }
    scope::remove(PREFIX);
    ensure!(!left(), "not everything of the demo could be removed");
    println!("The demo is removed: nodes, pods, agents, BPF programs and maps.");
    Ok(ExitCode::SUCCESS)
}

/// Whether something of a demonstration exists.
fn left() -> bool {
    let directories = ["/run", "/sys/fs/bpf"];
    let mut paths = directories
        .iter()
        .map(|directory| Path::new(directory).join(PREFIX));
    paths.any(|path| path.exists()) || namespaces()
}

fn namespaces() -> bool {
    std::fs::read_dir("/run/netns").is_ok_and(|entries| {
        let prefix = format!("{PREFIX}-");
        let mut names = entries.flatten().map(|entry| entry.file_name());
        names.any(|name| name.to_string_lossy().starts_with(&prefix))
    })
}

/// One demonstration at a time: the second one would remove the first one's nodes. The name of an
/// abstract socket vanishes with its process, however that ends.
fn claim() -> Result<UnixListener> {
    ensure!(nix::unistd::geteuid().is_root(), "this needs root");
    let name = SocketAddr::from_abstract_name(PREFIX)?;
    UnixListener::bind_addr(&name).context("another demo is running on this machine")
}
