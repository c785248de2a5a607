use super::*;

#[test]
fn names_are_file_names_and_unique() {
    for (index, kernel) in KERNELS.iter().enumerate() {
        assert!(KERNELS[..index].iter().all(|other| other.name != kernel.name));
        assert!(kernel.source.starts_with("//"), "{} has no header", kernel.name);
        assert!(
            !kernel.source.contains("asm volatile"),
            "{}: asm belongs in ptx.cuh",
            kernel.name
        );
        assert_eq!(Kernel::named(kernel.name).map(|k| k.name), Some(kernel.name));
    }
}

#[test]
fn kernels_of_other_names_are_answered_with_the_right_one() {
    let problem: Problem = "stream:access=read,bytes=128".parse().unwrap();
    let asked = |name| Kernel::asked_for(name, &problem, Arch::SM_90).map(|k| k.name);
    assert_eq!(asked("stream"), Ok("stream"));
    for wrong in ["gemm", "cpu_stream", ""] {
        assert!(asked(wrong).unwrap_err().0.contains("use `stream`"));
    }
}

#[test]
fn params_hold_what_a_slot_is_bound_to() {
    let problem: Problem = "stream:access=read,bytes=1048576".parse().unwrap();
    let plan = (stream::KERNEL.plan)(&problem, &Target::new(Arch::SM_90, 132));
    let bound = Bound {
        seed: 1,
        slot: 0,
        tensors: &[256, 512],
        scratch: &[1024, 2048],
        tensor_maps: &[],
    };
    let bytes = plan.launches[0].params.bytes(&bound);
    let words: Vec<u64> = bytemuck::pod_collect_to_vec(&bytes[..48]);
    assert_eq!(words, [256, 0, 512, 1024, 2048, 65536]);
    // 65,536 vectors in tiles of 4096.
    assert_eq!((plan.launches[0].grid, plan.launches[0].block), ([16, 1, 1], [512, 1, 1]));
}
