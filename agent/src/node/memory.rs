//! Gives memory back that reading a large cluster has left free, but in the allocator's hands.

/// Returns free memory to the kernel. Takes about a millisecond.
#[cfg(target_env = "gnu")]
pub(super) fn give_back() {
    // SAFETY: malloc_trim(3) has no precondition: it is safe in any thread at any time, takes the
    // allocator's own locks, and touches only memory that nobody has allocated.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

/// Other C libraries give memory back by themselves.
#[cfg(not(target_env = "gnu"))]
pub(super) fn give_back() {}
