//! The Container Network Interface: verbs, configuration, results, error codes.

pub mod plugin;
