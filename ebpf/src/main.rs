//! Oxlan's TC programs.
#![no_std]
#![no_main]
