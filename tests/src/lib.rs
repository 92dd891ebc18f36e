//! Fixtures for the tests that need a kernel, and for the demo: nodes, pods and the traffic between them.
//!
//! A node is a network namespace with a real `oxlan agent` inside; a pod is a network namespace that
//! `oxlan-cni` attached, called as a container runtime calls it. Everything carries a prefix that
//! holds our process id, so any number of test runs stand side by side on one machine.

pub mod agent;
pub mod aggregates;
pub mod bench;
pub mod binaries;
pub mod bird;
pub mod capture;
pub mod cluster;
pub mod cni;
pub mod containerd;
pub mod demo;
pub mod etcd;
pub mod fabric;
pub mod fact;
pub mod flannel;
pub mod kube_api;
pub mod kube_proxy;
pub mod kubelab;
pub mod libcni;
pub mod netns;
pub mod node;
pub mod packet;
pub mod pod;
pub mod run;
pub mod scope;
pub mod skip;
pub mod traces;
pub mod traffic;
pub mod underlay;
pub mod wait;
pub mod xdp;
