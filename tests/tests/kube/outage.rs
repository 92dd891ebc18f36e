//! The API server is away for a minute: pods talk, come and go, and an agent starts.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use oxlan_tests::kubelab::{IMAGE, Lab, MINUTE, Pod, Steps};
use oxlan_tests::traffic::udp_stream::UdpStream;
use oxlan_tests::wait::{until, until_true};
use serde_json::{Value, json};

use crate::install::Pods;

/// Between the datagrams of the stream that crosses the outage, and how many make a minute.
const INTERVAL: Duration = Duration::from_millis(5);
const A_MINUTE: u64 = 12_000;

pub(super) fn steps(steps: &mut Steps, lab: &Lab, pods: &Pods) {
    let _ = steps.step("kube::install::api_server_away", || away(lab, pods));
}

fn away(lab: &Lab, pods: &Pods) -> Result<()> {
    // Pods of node 2 are others since the node was added again.
    let [web, doomed] = lab.pods([("web-3", 2, Value::Null), ("doomed", 1, Value::Null)])?;
    let client = &pods.client[0];
    let sandbox = lab.sandbox(&doomed)?;
    let stream = UdpStream::start(client.end(), web.end(), INTERVAL)?;
    let stopped = lab.stop_server()?;
    until_true(MINUTE, "problem in the status", || {
        Ok(problems(lab)? != json!([]))
    })?;

    a_pod_comes_and_goes(lab, client, &web)?;
    let before = pid(lab)?;
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    until_true(MINUTE, "new agent that is ready", || {
        let status = lab.agent(1, "status")?;
        Ok(status["pid"] != before && status["health"]["state"] == "ready")
    })?;
    ensure!(
        problems(lab)? != json!([]),
        "the new agent thinks that all is well"
    );
    a_sandbox_is_made_again(lab, &doomed, sandbox, &web)?;
    a_pod_comes_and_goes(lab, client, &web)?;
    stream.wait_for_total(A_MINUTE)?;

    stopped.start_again()?;
    stream.wait_for_more(100)?;
    stream.finish()?.expect_perfect(A_MINUTE)?;
    until_true(MINUTE, "status without problems", || {
        Ok(problems(lab)? == json!([]))
    })?;
    lab.nodes_ready()?;
    let [after] = lab.pods([("after", 2, Value::Null)])?;
    client.is_seen_by(&after)
}

fn problems(lab: &Lab) -> Result<Value> {
    Ok(lab.agent(1, "status")?["problems"].clone())
}

fn pid(lab: &Lab) -> Result<i32> {
    let status = lab.agent(1, "status")?;
    let pid = status["pid"].as_i64().context("no process")?;
    Ok(pid.try_into()?)
}

/// The addresses of an attachment of node 1 whose row has this value, if it is ready.
fn attached(lab: &Lab, field: &str, value: &str) -> Result<Option<String>> {
    let rows = lab.agent(1, "pods")?;
    let rows = rows.as_array().context("no list")?;
    let row = rows
        .iter()
        .find(|row| row[field] == value && row["phase"] == "ready");
    Ok(row
        .and_then(|row| row["addresses"][0].as_str())
        .map(str::to_owned))
}

/// The kubelet learns of no new pods now, so containerd is asked for one without it, through the
/// same plugin and configuration.
fn a_pod_comes_and_goes(lab: &Lab, client: &Pod, other: &Pod) -> Result<()> {
    let id = "k8s.io-comes-and-goes";
    let run = format!(
        "ctr -n k8s.io run --rm --cni {IMAGE} comes-and-goes /agnhost netexec --http-port=80"
    );
    let mut running = start(lab, &run)?;
    let checked = until(MINUTE, "pod without a kubelet", || {
        attached(lab, "container_id", id)?.context("it is not attached")
    })
    .and_then(|address| {
        let url = format!("http://{address}/clientip");
        until(MINUTE, "answer of the new pod", || client.asks(&url))?;
        let seen = other.asks(&url)?;
        ensure!(
            seen.starts_with(&other.address.to_string()),
            "{} is seen as {seen}",
            other.name
        );
        Ok(())
    });
    let killed = lab.node(1, "ctr -n k8s.io tasks kill -s KILL comes-and-goes");
    if killed.is_err() {
        // Its container goes with the cluster; who waits for it must not wait for ever.
        running.kill()?;
    }
    running.wait()?;
    checked?;
    killed?;
    let left = attached(lab, "container_id", id)?;
    ensure!(
        left.is_none(),
        "it is gone, but is still attached: {left:?}"
    );
    Ok(())
}

fn start(lab: &Lab, line: &str) -> Result<Child> {
    let mut command = Command::new(lab.script());
    command.args(["node", "1"]).args(line.split(' '));
    let quiet = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    quiet.spawn().context("cannot start a container")
}

/// The kubelet itself replaces a sandbox that ends, with a new network.
fn a_sandbox_is_made_again(lab: &Lab, pod: &Pod, sandbox: i32, client: &Pod) -> Result<()> {
    pod.netns.delete()?;
    let rows = lab.agent(1, "pods")?;
    let old = rows
        .as_array()
        .into_iter()
        .flatten()
        .find(|row| row["name"] == pod.name.as_str());
    let old = old.context("no attachment")?["container_id"].clone();
    kill(Pid::from_raw(sandbox), Signal::SIGKILL)?;
    let address = until(MINUTE, "new sandbox", || {
        let rows = lab.agent(1, "pods")?;
        let mut rows = rows.as_array().into_iter().flatten();
        let new = rows.find(|row| row["name"] == pod.name.as_str() && row["container_id"] != old);
        let address = new.context("none yet")?["addresses"][0].as_str();
        Ok(address.context("no address")?.to_owned())
    })?;
    until(MINUTE, "answer of the new sandbox", || {
        client.asks(&format!("http://{address}/hostname"))
    })?;
    Ok(())
}
