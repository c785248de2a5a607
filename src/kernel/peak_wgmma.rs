//! Host half of `kernels/peak_wgmma.cu`.

use bytemuck::{Pod, Zeroable};

use super::configuration::Configuration;
use super::contract::HostHalf;
use super::peak::{data_code, products, refuse_tensor};
use super::plan::{Launch, Params, Plan};
use super::refusal::{Refusal, refuse_unless};
use crate::format::DType;
use crate::op::{Operands, Peak, Unit};
use crate::toolchain::{Arch, Defines, Target};

/// Threads of a block, a warpgroup.
const THREADS: u32 = 128;
/// Products of a group that is waited for as one.
const PRODUCTS: u32 = 4;
/// Rows of a product.
const ROWS: u32 = 64;
/// Bytes of a row of an operand.
const ROW_BYTES: u32 = 128;
/// Warpgroups of an SM with the wider product.
const WARPGROUPS: u32 = 2;

/// `Params` of the kernel.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C)]
struct PeakParams {
    start: u64,
    end: u64,
    lanes: u64,
    products: u64,
    data: u32,
    unused: u32,
}

/// The struct of a format in `prelude.cuh`, where products of warpgroups have it.
const fn format(dtype: DType) -> Option<&'static str> {
    match dtype {
        DType::Bf16 => Some("Bf16"),
        DType::F16 => Some("F16"),
        DType::Tf32 => Some("Tf32"),
        DType::Fp8E4m3 => Some("E4m3"),
        DType::Fp8E5m2 => Some("E5m2"),
        DType::Int8 => Some("Int8"),
        DType::F32 | DType::F64 | DType::Int4 | DType::Fp4E2m1 => None,
    }
}

/// Products of warpgroups.
pub(super) struct WarpgroupProducts {
    peak: Peak,
    /// The struct of the operands' format.
    format: &'static str,
    /// Products of a group.
    of_group: u32,
    /// Columns of a product; `None` for as many as fill a GPU.
    columns: Option<u32>,
}

impl HostHalf for WarpgroupProducts {
    type Operation = Peak;
    const NAME: &'static str = "peak_wgmma";
    const SOURCE: &'static str = include_str!("../../kernels/peak_wgmma.cu");
    const MEMORY_BOUND: bool = false;
    const CONFIGURATIONS: &[Configuration] = &[
        // Fewer waits and branches for as many products.
        Configuration::new("products_8", &[("products", 8)]),
        Configuration::new("products_16", &[("products", 16)]),
        Configuration::new("columns_128", &[("columns", 128)]),
        Configuration::new("columns_256", &[("columns", 256)]),
    ];

    fn configure(peak: &Peak, arch: Arch, choice: &Configuration) -> Result<Self, Refusal> {
        if peak.unit == Unit::Fma || arch != Arch::SM_90 {
            refuse_tensor(peak, arch)?;
        }
        refuse_unless(peak.unit == Unit::Tensor, || {
            format!("unit = tensor, not {}; use `peak`", peak.unit)
        })?;
        refuse_unless(arch == Arch::SM_90, || {
            format!("sm_90a, which has wgmma, not {arch}; use `peak`")
        })?;
        let Some(format) = format(peak.dtype) else {
            return Err(refuse_tensor(peak, arch).err().unwrap_or_else(|| {
                super::refusal::supports(format!("other formats than {}", peak.dtype))
            }));
        };
        products(peak)?;
        let of_group = choice.or("products", PRODUCTS);
        let columns = Some(choice.or("columns", 0)).filter(|columns| *columns > 0);
        Ok(WarpgroupProducts { peak: *peak, format, of_group, columns })
    }

    fn defines(&self) -> Defines {
        Defines::new()
            .with("FORMAT", self.format)
            .with("PRODUCTS", self.of_group)
            .with("A_IN_REGISTERS", u32::from(self.peak.operands == Operands::Registers))
    }

    fn plan(&self, target: &Target) -> Plan {
        let peak = self.peak;
        // First every SM has two warpgroups, then these have wider products.
        let is_wide = peak.lanes >= u64::from(target.sms * WARPGROUPS * 128);
        let (entry, columns) = match self.columns.map_or(is_wide, |columns| columns > 128) {
            true => ("peak_wgmma_256", 256),
            false => ("peak_wgmma_128", 128),
        };
        let lanes = u64::from(columns / 2);
        let blocks = peak.lanes.div_ceil(lanes).min(u64::from(i32::MAX as u32));
        let products = products(&peak).expect("it was configured");
        let params = Params::of(move |bound| PeakParams {
            start: bound.tensor("start"),
            end: bound.tensor("end"),
            lanes: peak.lanes,
            products,
            data: data_code(peak.data),
            unused: 0,
        });
        let shared_bytes = (ROWS + columns) * ROW_BYTES;
        let launch = Launch::new(entry, blocks as u32, THREADS, params);
        Plan::of(Launch { shared_bytes, ..launch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::contract::testing::{
        configured, configured_as, options, plan, refusal,
    };

    fn launch(lanes: u32) -> (&'static str, u32, u32) {
        let text = format!("peak:unit=tensor,dtype=bf16,lanes={lanes},steps=8");
        let plan = plan::<WarpgroupProducts>(&text, &Target::new(Arch::SM_90, 132));
        let launch = &plan.launches[0];
        (launch.entry, launch.grid[0], launch.shared_bytes)
    }

    #[test]
    fn every_multiprocessor_has_two_warpgroups_before_products_are_wide() {
        assert_eq!(launch(132 * 256), ("peak_wgmma_256", 264, 40_960));
        assert_eq!(launch(132 * 256 - 1), ("peak_wgmma_128", 528, 24_576));
        assert_eq!(launch(132 * 64), ("peak_wgmma_128", 132, 24_576));
        assert_eq!(launch(1), ("peak_wgmma_128", 1, 24_576));
    }

    #[test]
    fn configurations_choose_groups_and_widths() {
        let text = "peak:unit=tensor,dtype=bf16,lanes=8448,steps=8";
        let of = |name| {
            let half = configured_as::<WarpgroupProducts>(text, Arch::SM_90, name).unwrap();
            let plan = half.plan(&Target::new(Arch::SM_90, 132));
            (half.of_group, plan.launches[0].entry, plan.launches[0].grid[0])
        };
        assert_eq!(of("products_16"), (16, "peak_wgmma_128", 132));
        assert_eq!(of("columns_256"), (4, "peak_wgmma_256", 66));
        assert_eq!(of("columns_128"), (4, "peak_wgmma_128", 132));
    }

    #[test]
    fn an_instruction_adds_32_bytes_of_a_row() {
        let count = |rest: &str| {
            let text = format!("peak:unit=tensor,lanes=1,{rest}");
            products(&crate::kernel::contract::testing::operation::<Peak>(&text))
        };
        assert_eq!(count("dtype=bf16,steps=9"), Ok(9));
        assert_eq!(count("dtype=tf32,steps=9"), Ok(18));
        assert_eq!(count("dtype=fp8_e4m3,steps=10"), Ok(5));
        let odd = count("dtype=int8,steps=9").unwrap_err();
        assert!(odd.0.contains("make it even"), "{odd}");
        // Sums of 14 bits.
        assert_eq!(count("dtype=fp8_e4m3,steps=8192"), Ok(4096));
        let long = count("dtype=fp8_e4m3,steps=8194").unwrap_err();
        assert!(long.0.contains("up to 8192"), "{long}");
    }

    #[test]
    fn macros_say_the_format_and_where_operands_are() {
        let options = |rest: &str| {
            let text = format!("peak:unit=tensor,lanes=1,steps=8,{rest}");
            options::<WarpgroupProducts>(&text, Arch::SM_90)
        };
        let shared = options("dtype=bf16");
        assert!(shared.contains("FORMAT=Bf16") && shared.contains("A_IN_REGISTERS=0"));
        assert_eq!(options("dtype=bf16,data=random"), shared, "data are a parameter");
        assert!(options("dtype=int8,operands=registers").contains("A_IN_REGISTERS=1"));
    }

    #[test]
    fn refusals_say_what_to_use() {
        let refusal = |text: &str, arch| refusal::<WarpgroupProducts>(text, arch);
        let bf16 = "peak:unit=tensor,dtype=bf16,lanes=1,steps=1";
        assert!(refusal(bf16, Arch::SM_80).contains("sm_90a, which has wgmma"));
        assert!(configured::<WarpgroupProducts>(bf16, Arch::SM_90).is_ok());
        let fp8 = "peak:unit=tensor,dtype=fp8_e4m3,lanes=1,steps=2";
        assert!(refusal(fp8, Arch::SM_80).contains("do not support"));
        let fma = "peak:unit=fma,dtype=f32,lanes=1,steps=1";
        assert!(refusal(fma, Arch::SM_90).contains("use `peak`"));
        let fma = "peak:unit=fma,dtype=int8,lanes=1,steps=1";
        assert!(refusal(fma, Arch::SM_90).contains("unit = tensor"));
    }
}
