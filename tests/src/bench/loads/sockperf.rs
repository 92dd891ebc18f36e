//! Request and response of 64 bytes over one TCP connection.

use anyhow::{Context, Result};

use super::new_port;
use super::server::Server;
use crate::bench::systems::Path;

/// Half the median round trip, microseconds. On one CPU, with all softirq work, it is the length of
/// the path; on all, it is mostly the time to wake the other CPU up.
pub(super) fn median(path: &Path, seconds: u32, cpu: Option<u32>) -> Result<f64> {
    let (address, port) = (path.address, new_port());
    let pinned = cpu.map_or(String::new(), |cpu| format!("taskset -c {cpu} "));
    let _server = Server::start(
        &path.server,
        port,
        &format!("{pinned}sockperf server --tcp -i {address} -p {port}"),
    )?;
    // It takes whole seconds only.
    let seconds = seconds.max(1);
    let text = path.client.run(&format!(
        "{pinned}sockperf ping-pong --tcp -i {address} -p {port} -m 64 -t {seconds}"
    ))?;
    in_report(&text)
}

fn in_report(text: &str) -> Result<f64> {
    let line = text.lines().find(|line| line.contains("percentile 50.000"));
    let value = line
        .and_then(|line| line.rsplit('=').next())
        .context("sockperf printed no median")?;
    value
        .trim()
        .parse()
        .with_context(|| format!("sockperf's median `{value}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_found() {
        let text = "sockperf: ---> percentile 75.000 =    3.100\nsockperf: ---> percentile 50.000 =    2.580\n";
        assert_eq!(in_report(text).unwrap(), 2.58);
        in_report("sockperf: No messages were received").unwrap_err();
    }
}
