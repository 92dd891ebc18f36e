//! Clusters of nodes in network namespaces, with real agents.

#![cfg(test)]

mod answers;
mod bandwidth;
mod cleanup;
mod cluster_changes;
mod cluster_file;
mod drift;
mod equal_paths;
mod fabric;
mod features;
mod forgery;
mod host_ports;
mod idle;
mod kube;
mod kube_proxy;
mod life;
mod limits;
mod many_pods;
mod masquerade;
mod modes;
mod mtu;
mod odd_headers;
mod offloads;
mod order;
mod outside;
mod over_ipv6;
mod packet_shapes;
mod reach;
mod refusals;
mod services;
mod underlay;
mod xdp;
