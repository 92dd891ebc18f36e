//! A pod's veth pair: made with one end directly in the pod's namespace.
