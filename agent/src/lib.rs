//! Oxlan's node agent.
