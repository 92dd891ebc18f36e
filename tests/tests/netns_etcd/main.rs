//! Agents that take the cluster from a real etcd.

#![cfg(test)]

mod acquisition;
mod life;
mod outage;
mod refused;
mod secured;
mod setbacks;
mod site;
