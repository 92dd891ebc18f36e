//! Hundreds of operations at random, by several callers at once, over agents that die.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};

use super::fixture::{Container, Node, on_a_node};
use crate::pods::{Attachment, Expected, Phase, PodError, Pods};

const CIDRS: &[&str] = &["10.244.1.0/27", "fd00:244:1::/64"];
const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];
const CONTAINERS: usize = 12;
const CALLERS: usize = 4;
/// Operations per caller and life of an agent; 5 lives, 4 callers: 200 operations at least.
const OPERATIONS: usize = 10;
const LIVES: usize = 5;

/// Dies as a whole after a number of steps: from then on every step of every caller ends.
async fn mortal_agent(node: &Node, steps: usize) -> (Arc<Pods>, Arc<AtomicBool>) {
    let left = AtomicUsize::new(steps);
    let dead = Arc::new(AtomicBool::new(false));
    let flag = dead.clone();
    let reached = move |_| {
        if left
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
            .is_err()
        {
            flag.store(true, Ordering::SeqCst);
            panic::resume_unwind(Box::new("the agent is dead"));
        }
    };
    (Arc::new(node.agent_with(reached).await), dead)
}

#[test]
fn nothing_is_leaked_and_nothing_is_double() {
    on_a_node(OVERLAY, async || {
        let node = Node::new(CIDRS);
        let containers: Vec<Container> = (0..CONTAINERS)
            .map(|n| Container::new(&format!("c{n}")))
            .collect();
        let containers = Arc::new(containers);
        let mut rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut finished = 0;
        for _ in 0..LIVES {
            // A life of 60 to 123 steps: an ADD has 8, a DEL 5.
            let (pods, dead) = mortal_agent(&node, 60 + (rng.next_u32() % 64) as usize).await;
            let mut callers = tokio::task::JoinSet::new();
            for _ in 0..CALLERS {
                let choices: Vec<u32> = (0..OPERATIONS).map(|_| rng.next_u32()).collect();
                callers.spawn(call(pods.clone(), containers.clone(), choices));
            }
            finished += callers.join_all().await.into_iter().sum::<usize>();
            if !dead.load(Ordering::SeqCst) {
                require_order(&node, &pods);
            }
        }
        assert!(finished > 50, "only {finished} operations came to an end");
        let pods = node.agent().await;
        require_order(&node, &pods);
        check_all(&pods).await;
        for container in containers.iter() {
            pods.del(container.key()).await.unwrap();
        }
        assert_eq!(node.leftovers(), Vec::<String>::new());
        assert!(node.datapath.is_empty());
        assert!(containers.iter().all(|c| !c.has("eth0")));
    });
}

/// One caller's operations; how many came to an end, well or not.
async fn call(pods: Arc<Pods>, containers: Arc<Vec<Container>>, choices: Vec<u32>) -> usize {
    let mut finished = 0;
    for choice in choices {
        let container = &containers[choice as usize / 16 % CONTAINERS];
        let outcome = match choice % 16 {
            0..8 => pods.add(container.request()).await.map(drop),
            8..14 => pods.del(container.key()).await,
            14 => {
                let valid = pods
                    .list()
                    .iter()
                    .take(8)
                    .map(crate::pods::Key::of)
                    .collect();
                pods.gc("oxlan".into(), valid).await.map(drop)
            }
            _ => pods.check(container.key(), Expected::default()).await,
        };
        match outcome {
            Err(PodError::Interrupted) => {}
            Ok(()) | Err(PodError::Duplicate { .. } | PodError::Unknown { .. }) => finished += 1,
            // Nothing was said about the namespace.
            Err(PodError::Netns(_)) if choice % 16 == 15 => finished += 1,
            Err(error) => panic!("{error}"),
        }
    }
    finished
}

/// Records, host sides, map entries and filters are those of the complete attachments, no more.
fn require_order(node: &Node, pods: &Pods) {
    let attachments = pods.list();
    assert!(
        attachments.iter().all(|a| a.phase == Phase::Ready),
        "{attachments:?}"
    );
    let mut wanted: Vec<String> = Vec::new();
    for attachment in &attachments {
        wanted.push(format!("{}@eth0.json", attachment.container_id));
        wanted.push(attachment.host_ifname.clone());
    }
    wanted.sort();
    assert_eq!(node.leftovers(), wanted);

    let owners = owners(&attachments);
    let mapped: BTreeMap<IpAddr, u32> = {
        let pods = node.datapath.pods.lock().unwrap();
        pods.iter()
            .map(|(address, value)| (IpAddr::from(*address), value.ifindex))
            .collect()
    };
    assert_eq!(mapped, owners);
    let filtered: HashSet<(String, u32)> = node
        .datapath
        .attached
        .lock()
        .unwrap()
        .iter()
        .cloned()
        .collect();
    let sides = attachments
        .iter()
        .map(|a| (a.host_ifname.clone(), a.host_ifindex));
    assert_eq!(filtered, sides.collect());
}

/// Which interface each address belongs to; no address may belong to two.
fn owners(attachments: &[Attachment]) -> BTreeMap<IpAddr, u32> {
    let mut owners = HashMap::new();
    for attachment in attachments {
        for address in &attachment.addresses {
            let other = owners.insert(*address, attachment.host_ifindex);
            assert_eq!(other, None, "{address} was given twice");
        }
    }
    owners.into_iter().collect()
}

async fn check_all(pods: &Pods) {
    for attachment in pods.list() {
        let expected = Expected {
            netns: attachment.netns.clone(),
            addresses: attachment.addresses.clone(),
            mac: Some(attachment.mac),
        };
        let key = crate::pods::Key::of(&attachment);
        pods.check(key, expected).await.unwrap();
    }
}
