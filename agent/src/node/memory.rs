//! Keeps the agent small: memory that a large cluster has needed for a moment goes back.

/// Lets all threads share one heap: each would keep its own free memory otherwise, and the agent
/// allocates too little at once for them to get into each other's way.
#[cfg(target_env = "gnu")]
pub(super) fn share_one_heap() {
    // SAFETY: mallopt(3) takes two numbers, touches only the allocator's own settings, and
    // ignores what it does not know.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, 1);
    }
}

/// Other C libraries have one heap.
#[cfg(not(target_env = "gnu"))]
pub(super) fn share_one_heap() {}

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
