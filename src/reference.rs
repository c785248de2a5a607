//! x
/// a
pub const FMA_A: f32 = -1.0 + 1.0 / 16384.0;
/// b
pub const FMA_B: f32 = 0.5;
/// w
pub fn write_pattern(seed: u64, slot: usize) -> u32 {
    crate::data::Key::new(seed, slot, 0).word(0) & 0x7fff_ffff
}
