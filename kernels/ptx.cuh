// PTX instructions as functions: one function, one instruction, and no other
// file contains asm, but for the products of warpgroups in wgmma.cuh. Names follow the PTX
// ISA.
#pragma once
#include "prelude.cuh"

// --- Launches --------------------------------------------------------------

// Waits until the launch before is done and its writes are seen, then lets the next one
// begin. In this order no more than two launches are on the GPU at once, so that what a launch
// reads with .nc was written before it began or by the one that it waited for, and no L1 has
// it as it was before.
DEVICE void wait_for_previous() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
}

// Whether weights, which no launch writes, are fetched before that.
#ifdef WEIGHTS_AHEAD
constexpr bool FETCHES_AHEAD = true;
#else
constexpr bool FETCHES_AHEAD = false;
#endif

// Of a kernel whose launches may begin while the one before them ends: before it reads or writes
// anything but what no launch writes, such as work lists and page tables.
DEVICE void overlap_previous() {
#ifdef OVERLAP
  if (!FETCHES_AHEAD) wait_for_previous();
#endif
}

// Behind the first weights that are fetched, and before anything else is read or written.
DEVICE void overlap_after_weights() {
#ifdef OVERLAP
  if (FETCHES_AHEAD) wait_for_previous();
#endif
}

// --- Global memory ---------------------------------------------------------

// Reads 16 bytes that no thread writes during the launch, bypassing L1, and makes L2
// prefetch the 256 bytes around them.
DEVICE Words4 ld_global_nc_v4(const void *address) {
  Words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::256B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(address));
  return v;
}

// Reads 16 bytes that no thread writes during the launch, bypassing L1 and without
// prefetching.
DEVICE Words4 ld_global_nc_v4_only(const void *address) {
  Words4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(address));
  return v;
}

// Reads 16 bytes that no thread writes during the launch and that nothing reads again soon:
// caches evict them first.
DEVICE Words4 ld_global_nc_v4_streaming(const void *address) {
  Words4 v;
  asm volatile("ld.global.cs.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(address));
  return v;
}

// Reads 16 bytes that no thread writes during the launch; the same thread reads the
// bytes next to them, so L1 keeps their sectors.
DEVICE Words4 ld_global_nc_v4_kept(const void *address) {
  Words4 v;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "l"(address));
  return v;
}

// Reads a word that no thread writes during the launch; its neighbours are
// likely to be read soon, so L1 keeps them.
DEVICE u32 ld_global_nc_u32(const u32 *address) {
  u32 value;
  asm volatile("ld.global.nc.u32 %0, [%1];" : "=r"(value) : "l"(address));
  return value;
}

// The same for a float.
DEVICE float ld_global_nc_f32(const float *address) {
  float value;
  asm volatile("ld.global.nc.f32 %0, [%1];" : "=f"(value) : "l"(address));
  return value;
}

// Writes 16 bytes, bypassing L1.
DEVICE void st_global_v4(void *address, Words4 v) {
  asm volatile("st.global.L1::no_allocate.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address),
               "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
               : "memory");
}

// Adds to a counter that other blocks add to; orders this thread's earlier
// writes before it and its later reads after it, for all threads of the GPU.
DEVICE u32 atom_add_acq_rel_gpu(u32 *address, u32 value) {
  u32 old;
  asm volatile("atom.global.acq_rel.gpu.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(address), "r"(value)
               : "memory");
  return old;
}

// Adds to what other blocks add to, and orders nothing.
DEVICE u32 atom_add_relaxed_gpu(u32 *address, u32 value) {
  u32 old;
  asm volatile("atom.global.relaxed.gpu.add.u32 %0, [%1], %2;"
               : "=r"(old)
               : "l"(address), "r"(value)
               : "memory");
  return old;
}
DEVICE u64 atom_add_relaxed_gpu(u64 *address, u64 value) {
  u64 old;
  asm volatile("atom.global.relaxed.gpu.add.u64 %0, [%1], %2;"
               : "=l"(old)
               : "l"(address), "l"(value)
               : "memory");
  return old;
}

// --- Shared memory and asynchronous copies ---------------------------------

// The 32-bit address within shared memory that instructions take.
DEVICE u32 shared_address(const void *pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

// Reads 16 bytes.
DEVICE Words4 ld_shared_v4(u32 address) {
  Words4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.w[0]), "=r"(v.w[1]), "=r"(v.w[2]), "=r"(v.w[3])
               : "r"(address)
               : "memory");
  return v;
}

// Reads 4 bytes.
DEVICE u32 ld_shared_u32(u32 address) {
  u32 value;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(address) : "memory");
  return value;
}

// Reads 2 bytes.
DEVICE u16 ld_shared_u16(u32 address) {
  u16 value;
  asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(address) : "memory");
  return value;
}

// Reads a float.
DEVICE float ld_shared_f32(u32 address) {
  float value;
  asm volatile("ld.shared.f32 %0, [%1];" : "=f"(value) : "r"(address) : "memory");
  return value;
}

// Writes 16 bytes.
DEVICE void st_shared_v4(u32 address, Words4 v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.w[0]),
               "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
               : "memory");
}

// Writes 4 bytes.
DEVICE void st_shared(u32 address, u32 value) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(value) : "memory");
}

// Writes 8 bytes.
DEVICE void st_shared_v2(u32 address, u32 low, u32 high) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(address), "r"(low), "r"(high)
               : "memory");
}

// Copies 16 bytes from global to shared memory, bypassing L1; where `bytes` is 0,
// writes zeros and reads nothing.
DEVICE void cp_async_16(u32 to, const void *from, u32 bytes = 16) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
               "r"(bytes)
               : "memory");
}

// Makes a group of this thread's copies since the last group.
DEVICE void cp_async_commit_group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `pending` of this thread's groups are incomplete.
template <u32 pending>
DEVICE void cp_async_wait_group() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// --- Barriers ------------------------------------------------------------------

// Waits until `threads` threads of the block, whole warps, have arrived at barrier
// `number`; number 0 is the barrier of __syncthreads.
DEVICE void bar_sync(u32 number, u32 threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// Arrives there without waiting.
DEVICE void bar_arrive(u32 number, u32 threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(number), "r"(threads) : "memory");
}

// --- Registers: sm_90a --------------------------------------------------------

// Releases registers until a thread has `registers`; executed by all of a warpgroup.
template <u32 registers>
DEVICE void setmaxnreg_dec() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// Waits until each thread can have `registers`, and takes them.
template <u32 registers>
DEVICE void setmaxnreg_inc() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// --- Bulk copies and their barriers: sm_90 and up --------------------------

// Makes an mbarrier whose phases complete after `arrivals` arrivals and all expected
// bytes.
DEVICE void mbarrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes the mbarriers that this thread initialized visible to the copy engine.
DEVICE void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and makes the phase expect `bytes` more of copies.
DEVICE void mbarrier_arrive_expect_tx(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}

// Arrives; earlier accesses of this thread are visible to threads that observe the phase
// complete.
DEVICE void mbarrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives when all copies that this thread has started so far by cp_async_16 have arrived:
// one of the arrivals that the phase expects. What copies wrote is ordered for threads that
// observe the phase complete, but not for the async proxy.
DEVICE void cp_async_mbarrier_arrive(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Whether the phase of this parity has completed; waits for a limited time. The phase
// before the first counts as completed and has parity 1.
DEVICE bool mbarrier_try_wait_parity(u32 barrier, u32 parity) {
  u32 ended;
  asm volatile(
      "{\n.reg .pred ended;\nmbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2;\n"
      "selp.u32 %0, 1, 0, ended;\n}"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended;
}

// How boxes are cut out of a tensor, in the driver's encoding.
struct alignas(64) TensorMap {
  u8 bytes[128];
};

// Copies a multiple of 16 bytes from global to shared memory, both aligned to 16, and
// counts the bytes that have arrived at the mbarrier.
DEVICE void cp_async_bulk_load(u32 to, const void *from, u32 bytes, u32 barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          to),
      "l"(from), "r"(bytes), "r"(barrier)
      : "memory");
}

// Copies a box of a tensor of three dimensions, given its map and coordinates, and counts
// the bytes that have arrived at the mbarrier: the whole box, with zeros for elements
// outside of the tensor.
DEVICE void cp_async_bulk_tensor_3d_load(u32 to, const TensorMap &map, u32 x, u32 y, u32 z,
                                         u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier)
      : "memory");
}

// The same for two dimensions.
DEVICE void cp_async_bulk_tensor_2d_load(u32 to, const TensorMap &map, u32 x, u32 y,
                                         u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier)
      : "memory");
}

// The same for four dimensions.
DEVICE void cp_async_bulk_tensor_4d_load(u32 to, const TensorMap &map, u32 x, u32 y, u32 z,
                                         u32 w, u32 barrier) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(w), "r"(barrier)
      : "memory");
}

// Copies a box to the same place in every block of the cluster whose bit in `blocks` is
// set, and counts its bytes at the mbarrier of each.
DEVICE void cp_async_bulk_tensor_2d_multicast(u32 to, const TensorMap &map, u32 x, u32 y,
                                              u32 barrier, u16 blocks) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
      : "memory");
}

DEVICE void cp_async_bulk_tensor_3d_multicast(u32 to, const TensorMap &map, u32 x, u32 y, u32 z,
                                              u32 barrier, u16 blocks) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
      ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(to),
      "l"(&map), "r"(x), "r"(y), "r"(z), "r"(barrier), "h"(blocks)
      : "memory");
}

// Copies a box from shared memory to a tensor, as part of this thread's next group; what
// lies past the tensor's end is not written.
DEVICE void cp_async_bulk_tensor_2d_store(const TensorMap &map, u32 x, u32 y, u32 from) {
  asm volatile(
      "cp.async.bulk.tensor.2d.global.shared::cta.tile.bulk_group [%0, {%1, %2}], [%3];" ::"l"(
          &map),
      "r"(x), "r"(y), "r"(from)
      : "memory");
}

DEVICE void cp_async_bulk_tensor_3d_store(const TensorMap &map, u32 x, u32 y, u32 z, u32 from) {
  asm volatile(
      "cp.async.bulk.tensor.3d.global.shared::cta.tile.bulk_group [%0, {%1, %2, %3}], "
      "[%4];" ::"l"(&map),
      "r"(x), "r"(y), "r"(z), "r"(from)
      : "memory");
}

// Loads a tensor map into the cache of descriptors.
DEVICE void prefetch_tensormap(const TensorMap &map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Prefetches a multiple of 16 bytes, aligned to 16, into L2.
DEVICE void cp_async_bulk_prefetch(const void *from, u32 bytes) {
  asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes));
}

// Copies from shared to global memory, as part of this thread's next group.
DEVICE void cp_async_bulk_store(void *to, u32 from, u32 bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from),
               "r"(bytes)
               : "memory");
}

// Makes a group of this thread's bulk stores since the last group.
DEVICE void cp_async_bulk_commit_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

// Waits until at most `pending` of this thread's groups are incomplete.
template <u32 pending>
DEVICE void cp_async_bulk_wait_group() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(pending) : "memory");
}

// The same, but only until the groups have read shared memory.
template <u32 pending>
DEVICE void cp_async_bulk_wait_group_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

// Orders this thread's accesses to shared memory before those of copies started after
// it.
DEVICE void fence_proxy_async_shared() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// --- Clusters: sm_90 and up ------------------------------------------------------

// Number of this block in its cluster.
DEVICE u32 cluster_ctarank() {
  u32 rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The address, in block `rank` of the cluster, of what is at `address` in this one.
DEVICE u32 mapa(u32 address, u32 rank) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(address), "r"(rank));
  return there;
}

// Arrives at an mbarrier of any block of the cluster, given by mapa.
DEVICE void mbarrier_arrive_cluster(u32 barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(barrier)
               : "memory");
}

// The same without ordering this thread's accesses to memory for the other block, which
// takes a fence that waits for all of them: for what only copies will overwrite, after reads
// that have ended.
DEVICE void mbarrier_arrive_cluster_unordered(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cluster.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Whether the phase of this parity has completed, where other blocks of the cluster arrive.
DEVICE bool mbarrier_try_wait_parity_cluster(u32 barrier, u32 parity) {
  u32 ended;
  asm volatile(
      "{\n.reg .pred ended;\n"
      "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 ended, [%1], %2;\n"
      "selp.u32 %0, 1, 0, ended;\n}"
      : "=r"(ended)
      : "r"(barrier), "r"(parity)
      : "memory");
  return ended;
}

// Arrives at, and waits for, the barrier of all threads of the cluster.
DEVICE void barrier_cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// The arrival without ordering this thread's accesses to memory for other blocks, which takes a
// fence that waits for all of them.
DEVICE void barrier_cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
DEVICE void barrier_cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Writes 16 bytes of the shared memory of any block of the cluster, given by mapa.
DEVICE void st_shared_cluster_v4(u32 address, Words4 v) {
  asm volatile("st.shared::cluster.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v.w[0]),
               "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
               : "memory");
}

// Writes 16 bytes there, asynchronously: `barrier`, in the same block, counts them.
DEVICE void st_async_v4(u32 address, const float *x, u32 barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], "
      "{%1, %2, %3, %4}, [%5];" ::"r"(address),
      "f"(x[0]), "f"(x[1]), "f"(x[2]), "f"(x[3]), "r"(barrier)
      : "memory");
}

// The same of 8 bytes.
DEVICE void st_async_v2(u32 address, const float *x, u32 barrier) {
  asm volatile(
      "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::
          "r"(address),
      "f"(x[0]), "f"(x[1]), "r"(barrier)
      : "memory");
}

// --- Matrices in shared memory ---------------------------------------------

// Loads four 8 x 8 matrices of 16-bit elements; lanes 8 i to 8 i + 7 give the
// rows of matrix i, and lane l gets elements 2 (l % 4) and the next of row l / 4.
DEVICE void ldmatrix_x4(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The same with every 8 x 8 matrix transposed.
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

// The same for two matrices, whose rows lanes 0 to 15 give.
DEVICE void ldmatrix_x2(u32 (&r)[2], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
}

DEVICE void ldmatrix_x2_trans(u32 (&r)[2], u32 address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(address)
               : "memory");
}

// Stores four 8 x 8 matrices, as ldmatrix_x4 loads them. sm_90 and up.
DEVICE void stmatrix_x4(u32 address, const u32 (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// Transposes an 8 x 8 matrix of 16-bit elements in registers: lane 4 r + c has elements 2 c and
// 2 c + 1 of row r.
DEVICE u32 movmatrix_trans(u32 matrix) {
  u32 transposed;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(matrix));
  return transposed;
}

// --- Tensor cores: d += a * b, row times column --------------------------------
// Lane l holds, with g = l / 4 and t = l % 4:
//   a, 16-bit: rows g (registers 0, 2) and g + 8 (1, 3), columns 2 t and 2 t + 1,
//              registers 2 and 3 eight columns further;
//   b, 16-bit: column g, rows 2 t and 2 t + 1, register 1 eight rows further;
//   d:         rows g (0, 1) and g + 8 (2, 3), columns 2 t and 2 t + 1.

DEVICE void mma_m16n8k16_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

DEVICE void mma_m16n8k16_f16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 8-bit: a has rows g and g + 8 as above, columns 4 t to 4 t + 3 and 16 further;
// b has column g, rows 4 t to 4 t + 3, register 1 16 rows further.

DEVICE void mma_m16n8k32_s8(i32 (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// sm_89 and up.
DEVICE void mma_m16n8k32_e4m3(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// sm_89 and up.
DEVICE void mma_m16n8k32_e5m2(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.f32.e5m2.e5m2.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// 32-bit: a has rows g and g + 8 as above, columns t and t + 4; b has column g, rows t and
// t + 4. The lower 13 bits of operands are ignored.
DEVICE void mma_m16n8k8_tf32(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// --- Arithmetic ------------------------------------------------------------

// x * a + b, rounded once. Volatile, so that the compiler does not remove what is measured.
DEVICE float fma_f32(float x, float a, float b) {
  float y;
  asm volatile("fma.rn.f32 %0, %1, %2, %3;" : "=f"(y) : "f"(x), "f"(a), "f"(b));
  return y;
}

DEVICE double fma_f64(double x, double a, double b) {
  double y;
  asm volatile("fma.rn.f64 %0, %1, %2, %3;" : "=d"(y) : "d"(x), "d"(a), "d"(b));
  return y;
}

DEVICE u32 fma_bf16x2(u32 x, u32 a, u32 b) {
  u32 y;
  asm volatile("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(a), "r"(b));
  return y;
}

DEVICE u32 fma_f16x2(u32 x, u32 a, u32 b) {
  u32 y;
  asm volatile("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(y) : "r"(x), "r"(a), "r"(b));
  return y;
}

DEVICE u32 add_f16x2(u32 x, u32 y) {
  u32 sum;
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(x), "r"(y));
  return sum;
}

DEVICE u32 mul_f16x2(u32 x, u32 y) {
  u32 product;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(product) : "r"(x), "r"(y));
  return product;
}

// Each bit is the bit of `table` with the index 4 a + 2 b + c. The compiler would make two
// operations where two of the operands are constants.
template <u32 table>
DEVICE u32 lop3(u32 a, u32 b, u32 c) {
  u32 bits;
  asm("lop3.b32 %0, %1, %2, %3, %4;" : "=r"(bits) : "r"(a), "r"(b), "r"(c), "n"(table));
  return bits;
}

// 2^x, to about 2 units in the last place; 0 for -infinity.
DEVICE float ex2_approx(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// 1 / x, to about 1 unit in the last place.
DEVICE float rcp_approx(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Two floats rounded to nearest even and packed, the first in the low half.
DEVICE u32 cvt_bf16x2(float low, float high) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

DEVICE u32 cvt_f16x2(float low, float high) {
  u32 packed;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two floats rounded to E4M3 and packed, the first in the low byte. sm_89 and up.
DEVICE u16 cvt_e4m3x2(float low, float high) {
  u16 packed;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}

// The same to E5M2.
DEVICE u16 cvt_e5m2x2(float low, float high) {
  u16 packed;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(packed) : "f"(high), "f"(low));
  return packed;
}

// Two E4M3 elements as f16, exact. sm_89 and up.
DEVICE u32 cvt_f16x2_e4m3x2(u16 packed) {
  u32 halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(packed));
  return halves;
}

// Two integers saturated to 8 bits, `low` in the low byte; the low half of `above` becomes
// the high half.
DEVICE u32 cvt_pack_s8(i32 high, i32 low, u32 above) {
  u32 packed;
  asm("cvt.pack.sat.s8.s32.b32 %0, %1, %2, %3;" : "=r"(packed) : "r"(high), "r"(low), "r"(above));
  return packed;
}

DEVICE float cvt_f32_f16(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

// The same word, opaque to the compiler: it stays in a register instead of being computed
// again where it is used.
DEVICE u32 held(u32 word) {
  u32 same;
  asm volatile("mov.u32 %0, %1;" : "=r"(same) : "r"(word));
  return same;
}

// --- Clocks ----------------------------------------------------------------

// Nanoseconds of the GPU's wall clock.
DEVICE u64 globaltimer() {
  u64 ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns)::"memory");
  return ns;
}

// Cycles of this SM.
DEVICE u64 clock64_cycles() {
  u64 cycles;
  asm volatile("mov.u64 %0, %%clock64;" : "=l"(cycles)::"memory");
  return cycles;
}

// Number of the SM that this block runs on.
DEVICE u32 smid() {
  u32 id;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(id));
  return id;
}
