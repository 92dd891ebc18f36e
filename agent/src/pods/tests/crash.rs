//! The agent dies between two steps; the next one must find a node that it can put in order.

use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use super::fixture::{Container, Node, on_a_node};
use crate::pods::{PodError, Pods, Step};

const CIDRS: &[&str] = &["10.244.1.0/24", "fd00:244:1::/64"];
const OVERLAY: &[&str] = &["10.244.1.0/32", "fd00:244:1::/128"];

/// An agent that dies after `step`: its operation ends there and then, without any clean-up, as
/// after SIGKILL.
async fn mortal_agent(node: &Node, step: Step) -> Pods {
    node.agent_with(move |reached| {
        if reached == step {
            // Unlike `panic!` this prints nothing.
            panic::resume_unwind(Box::new("the agent is dead"));
        }
    })
    .await
}

const ADD_STEPS: std::ops::RangeInclusive<Step> = Step::AddReserved..=Step::AddReady;

#[test]
fn after_a_crash_in_add_nothing_is_left_but_a_complete_attachment() {
    on_a_node(OVERLAY, async || {
        for step in Step::ALL.iter().filter(|s| ADD_STEPS.contains(s)) {
            let node = Node::new(CIDRS);
            let container = Container::new("c1");
            let dying = mortal_agent(&node, *step).await;
            let error = dying.add(container.request()).await.unwrap_err();
            assert!(matches!(error, PodError::Interrupted), "{step:?}: {error}");

            let pods = node.agent().await;
            if *step == Step::AddReady {
                assert_eq!(pods.list().len(), 1);
                pods.del(container.key()).await.unwrap();
            }
            assert_eq!(pods.list(), [], "{step:?}");
            assert_eq!(node.leftovers(), Vec::<String>::new(), "{step:?}");
            assert!(node.datapath.is_empty(), "{step:?}");
            assert!(!container.has("eth0"), "{step:?}");

            // The address is not used again at once, and the container can be attached.
            let attachment = pods.add(container.request()).await.unwrap();
            assert_eq!(
                attachment.addresses[0].to_string(),
                "10.244.1.3",
                "{step:?}"
            );
            pods.del(container.key()).await.unwrap();
        }
    });
}

#[test]
fn after_a_crash_in_del_the_next_agent_finishes_it() {
    on_a_node(OVERLAY, async || {
        for step in Step::ALL.iter().filter(|s| !ADD_STEPS.contains(s)) {
            let node = Node::new(CIDRS);
            let (container, other) = (Container::new("c1"), Container::new("c2"));
            let dying = mortal_agent(&node, *step).await;
            dying.add(container.request()).await.unwrap();
            dying.add(other.request()).await.unwrap();
            let error = dying.del(container.key()).await.unwrap_err();
            assert!(matches!(error, PodError::Interrupted), "{step:?}: {error}");

            let pods = node.agent().await;
            assert!(!container.has("eth0"), "{step:?}");
            let kept: Vec<String> = pods.list().into_iter().map(|a| a.container_id).collect();
            assert_eq!(kept, ["c2"], "{step:?}");
            assert_eq!(
                node.leftovers().len(),
                2,
                "{step:?}: record and host side of c2"
            );
            assert_eq!(node.datapath.pods.lock().unwrap().len(), 2, "{step:?}");
            pods.del(container.key()).await.unwrap();
            pods.del(other.key()).await.unwrap();
        }
    });
}

/// The runtime does not wait for the agent's start: it calls again while the agent that was
/// interrupted in memory only (here by a failed thread) still runs.
#[test]
fn the_same_agent_clears_a_half_done_add() {
    on_a_node(OVERLAY, async || {
        for step in Step::ALL
            .iter()
            .filter(|s| ADD_STEPS.contains(s) && **s != Step::AddReady)
        {
            let node = Node::new(CIDRS);
            let container = Container::new("c1");
            let once = AtomicBool::new(true);
            let step = *step;
            let pods = node
                .agent_with(move |reached| {
                    if reached == step && once.swap(false, Ordering::SeqCst) {
                        panic::resume_unwind(Box::new("this thread is dead"));
                    }
                })
                .await;
            pods.add(container.request()).await.unwrap_err();
            let attachment = pods.add(container.request()).await.unwrap();
            assert_eq!(
                attachment.addresses[0].to_string(),
                "10.244.1.3",
                "{step:?}"
            );
            assert_eq!(node.leftovers().len(), 2, "{step:?}");
            assert_eq!(node.datapath.attached.lock().unwrap().len(), 1, "{step:?}");
            pods.del(container.key()).await.unwrap();
            assert_eq!(node.leftovers(), Vec::<String>::new(), "{step:?}");
        }
    });
}
