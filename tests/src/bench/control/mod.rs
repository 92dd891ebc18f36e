//! The agent and the plugin: how long pods wait for them, and what they cost.

mod agent;
mod cni;
mod kube;

use anyhow::Result;

use super::figures::Figures;
use super::{Effort, Progress};

pub(super) use agent::{large, small};
pub(super) use kube::{large as large_kube, small as small_kube};

/// Ours and the reference plugins among the figures.
pub(super) const OXLAN: &str = "oxlan";
pub(super) const REFERENCE: &str = "bridge + host-local";

/// Measures the plugin, then the agent.
pub(super) fn measure(
    effort: Effort,
    figures: &mut Figures,
    progress: &mut Progress<'_>,
) -> Result<()> {
    cni::measure(effort, figures, progress)?;
    agent::measure(effort, figures, progress)?;
    kube::measure(effort, figures, progress)
}
