//! Answers of transfers: every word arrives as it was sent.

use std::ops::Range;

use super::compare::CheckedOutput;
use super::{Answer, Check, NoReference, SlotInputs};
use crate::format::TensorFormat;
use crate::op::Transfer;

impl Answer for Transfer {
    fn axes(&self) -> Vec<(&'static str, u64)> {
        vec![("word", self.bytes / 4)]
    }

    fn compare(
        &self,
        target: &CheckedOutput<'_>,
        inputs: &SlotInputs,
    ) -> Result<Check, NoReference> {
        let [host, device] = ["host_source", "device_source"].map(|name| inputs.find(name));
        // In pairs of words, as they are drawn. What went to the device comes first.
        let pairs_in = self.bytes_in() / 8;
        Ok(target.compare_words(|first, pairs| {
            let first = first / 2;
            let of_host = pairs_in.saturating_sub(first).min(pairs.len() as u64);
            let (to_device, to_host) = pairs.split_at_mut(of_host as usize);
            if let Some(host) = host {
                host.draw(TensorFormat::Words, first, to_device);
            }
            if let Some(device) = device {
                let first = (first + of_host).saturating_sub(pairs_in);
                device.draw(TensorFormat::Words, first, to_host);
            }
        }))
    }

    fn unneeded(&self, _: &SlotInputs) -> Vec<(&'static str, Range<u64>)> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{CheckVerdict, check};
    use crate::data::Key;
    use crate::format::TensorFormat;
    use crate::op::Problem;

    const SEED: u64 = 3;
    const SLOT: usize = 2;

    /// The bytes of the tensor at a position.
    fn drawn(position: usize, bytes: usize) -> Vec<u8> {
        let mut drawn = vec![0; bytes];
        Key::new(SEED, SLOT, position).fill(TensorFormat::Words, &mut drawn);
        drawn
    }

    fn verdict(problem: &str, output: &[u8]) -> CheckVerdict {
        let problem: Problem = problem.parse().unwrap();
        check(&problem, SEED, SLOT, 0, output).unwrap().verdict
    }

    /// More than is compared at a time, and one of these ranges spans both halves.
    const BYTES: usize = (768 << 10) + 256;

    #[test]
    fn words_arrive_in_both_halves() {
        let both = format!("transfer:direction=both,memory=pinned,bytes={BYTES}");
        let right = [drawn(0, BYTES / 2), drawn(1, BYTES / 2)].concat();
        assert_eq!(verdict(&both, &right), CheckVerdict::Pass);
        for at in [0, BYTES / 2 - 1, BYTES / 2, BYTES - 1] {
            let mut wrong = right.clone();
            wrong[at] ^= 1;
            assert_eq!(verdict(&both, &wrong), CheckVerdict::Fail, "byte {at}");
        }
        let crossed = [drawn(1, BYTES / 2), drawn(0, BYTES / 2)].concat();
        assert_eq!(verdict(&both, &crossed), CheckVerdict::Fail);
    }

    #[test]
    fn words_arrive_one_way() {
        for direction in ["host_to_device", "device_to_host"] {
            let one_way =
                format!("transfer:direction={direction},memory=pageable,bytes={BYTES}");
            let right = drawn(0, BYTES);
            assert_eq!(verdict(&one_way, &right), CheckVerdict::Pass);
            assert_eq!(verdict(&one_way, &[0; BYTES]), CheckVerdict::Fail);
            assert_eq!(verdict(&one_way, &right[4..]), CheckVerdict::Fail);
        }
    }
}
