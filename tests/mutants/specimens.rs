//! What mutants are made of, and run on.

/// Kernels, some in another configuration than their default, and the points that each mutant
/// of theirs is run on until one finds it. The points of a line are compiled alike, and together reach all code.
pub const SPECIMENS: &[(&str, &[&str])] = &[
    (
        "stream",
        &[
            "stream:access=read,bytes=720896",
            "stream:access=write,bytes=721024",
            "stream:access=copy,bytes=1442048",
            "stream:access=triad,bytes=1081728",
        ],
    ),
    (
        "stream",
        &[
            // Shares of a whole tile, and of what is left of one in all its halves.
            "stream:access=read,bytes=262144,passes=2,reuse=own",
            "stream:access=read,bytes=303104,passes=2,reuse=own",
            "stream:access=read,bytes=491392,passes=3,reuse=own",
        ],
    ),
    (
        "stream.one_tile",
        &[
            // A last tile that is not whole, for some threads and for others.
            "stream:access=read,bytes=40960",
            "stream:access=read,bytes=61440",
            "stream:access=triad,bytes=61440",
        ],
    ),
    (
        "stream_bulk",
        &[
            // More tiles than stages for each block, and a short last one.
            "stream:access=read,bytes=1769600",
            "stream:access=write,bytes=1000064",
            "stream:access=copy,bytes=3539200",
        ],
    ),
    (
        "peak",
        &[
            "peak:unit=fma,dtype=f32,lanes=3,steps=45",
            "peak:unit=fma,dtype=f32,lanes=1000,steps=45",
            "peak:unit=fma,dtype=f32,lanes=8201,steps=45",
        ],
    ),
    (
        "peak",
        &[
            "peak:unit=tensor,dtype=bf16,lanes=9,steps=45",
            "peak:unit=tensor,dtype=bf16,lanes=65,steps=45",
        ],
    ),
    (
        "peak_wgmma",
        &[
            // Whole groups of products, and three products after them.
            "peak:unit=tensor,dtype=bf16,lanes=65,steps=23",
            "peak:unit=tensor,dtype=bf16,lanes=65,steps=16,data=random",
            "peak:unit=tensor,dtype=bf16,lanes=1029,steps=23",
            "peak:unit=tensor,dtype=bf16,lanes=1029,steps=16",
        ],
    ),
    (
        "kv_read",
        &[
            "kv_read:batch=1,context=700,kv_heads=1,head_dim=64,dtype=bf16",
            "kv_read:batch=11,context=330,kv_heads=2,head_dim=64,dtype=bf16",
        ],
    ),
    (
        "kv_read",
        &[
            "kv_read:batch=1,context=700,kv_heads=4,head_dim=64,dtype=bf16,layout=paged16_nhd",
            "kv_read:batch=1,context=10,kv_heads=4,head_dim=64,dtype=bf16,layout=paged16_nhd",
            "kv_read:batch=9,context=90,kv_heads=4,head_dim=64,dtype=bf16,layout=paged16_nhd,lengths=ragged",
        ],
    ),
    (
        "rmsnorm",
        &[
            "rmsnorm:m=67,n=1064,dtype=bf16,residual=true",
            "rmsnorm:m=1,n=1064,dtype=bf16,residual=true",
        ],
    ),
    // Tokens that share a warp, and a block that is not full.
    ("rmsnorm", &["rmsnorm:m=21,n=136,dtype=bf16", "rmsnorm:m=3,n=200,dtype=bf16"]),
    // Heads that turn and do not in one thread, and a thread of one head.
    (
        "rope_append",
        &[
            "rope_append:batch=7,context=99,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged,pages=whole",
            "rope_append:batch=5,context=99,q_heads=3,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged,pages=whole",
        ],
    ),
    (
        "rope_append",
        &[
            "rope_append:batch=7,context=99,q_heads=6,kv_heads=3,head_dim=64,dtype=bf16,layout=paged16_nhd,lengths=ragged",
            "rope_append:batch=5,context=99,q_heads=3,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16_nhd,lengths=ragged",
        ],
    ),
    // A row of several blocks; rows of one, with a round of vectors that is not full.
    (
        "argmax",
        &[
            "argmax:m=3,n=5000,dtype=bf16",
            "argmax:m=1100,n=1032,dtype=bf16",
            "argmax:m=600,n=4200,dtype=bf16",
        ],
    ),
    (
        "embedding",
        &[
            "embedding:m=7,vocab=50,n=200,dtype=bf16",
            "embedding:m=3,vocab=50,n=200,dtype=bf16",
        ],
    ),
    ("gated_activation", &["gated_activation:m=7,n=200,dtype=bf16"]),
    (
        "kv_append",
        &[
            "kv_append:batch=7,context=99,new_tokens=3,kv_heads=3,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
    (
        "kv_append",
        &[
            "kv_append:batch=7,context=99,new_tokens=3,kv_heads=3,head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged16_nhd,lengths=ragged",
        ],
    ),
    (
        "gemm",
        &[
            "gemm:m=5,n=136,k=1160,dtype=bf16",
            "gemm:m=3,n=7,k=2056,dtype=bf16",
            "gemm:m=17,n=300,k=376,dtype=bf16",
        ],
    ),
    // Rows of whole rounds of loads and a tail, of a tail alone, and warps without rows.
    (
        "gemv",
        &[
            "gemm:m=2,n=20,k=4360,dtype=bf16",
            "gemm:m=2,n=3,k=72,dtype=bf16",
            "gemm:m=2,n=8,k=2048,dtype=bf16",
        ],
    ),
    // Tiles of several blocks, several tiles in a block, and tails of both.
    (
        "gemm_skinny.by_rows",
        &[
            "gemm:m=5,n=200,k=520,dtype=bf16",
            "gemm:m=7,n=2090,k=72,dtype=bf16",
            "gemm:m=8,n=138,k=1352,dtype=bf16",
        ],
    ),
    // The same with a ring for each warp, and more tiles in a block than stages.
    (
        "gemm_skinny",
        &[
            "gemm:m=5,n=200,k=1544,dtype=bf16",
            "gemm:m=7,n=1430,k=72,dtype=bf16",
            "gemm:m=8,n=138,k=5000,dtype=bf16",
        ],
    ),
    (
        "gemm_skinny.by_rows",
        &[
            "gemm:m=5,n=1168,k=640,dtype=bf16,w_dtype=int4",
            "gemm:m=7,n=1168,k=384,dtype=bf16,w_dtype=int4",
            "gemm:m=8,n=80,k=2176,dtype=bf16,w_dtype=int4",
        ],
    ),
    (
        "moe_gemm",
        &[
            "moe_gemm:tokens=13,experts=5,top_k=2,n=136,k=272,dtype=bf16,w_dtype=int8,routing=zipf",
            "moe_gemm:tokens=17,experts=9,top_k=2,n=70,k=1680,dtype=bf16,w_dtype=int8,routing=zipf,inputs=per_expert",
        ],
    ),
    // Splits of one sequence in several blocks; several splits in a block.
    (
        "attention_decode.no_cluster",
        &[
            "decode_attention:batch=1,context=1333,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16",
            "decode_attention:batch=20,context=40,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16",
            "decode_attention:batch=7,context=333,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16",
            "decode_attention:batch=5,context=1100,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16",
        ],
    ),
    (
        "attention_decode.no_cluster",
        &[
            "decode_attention:batch=1,context=700,new_tokens=3,window=400,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16",
            "decode_attention:batch=1,context=9,new_tokens=3,window=400,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16",
            "decode_attention:batch=1,context=700,new_tokens=3,window=20,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16",
            "decode_attention:batch=20,context=40,new_tokens=3,window=400,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16",
            "decode_attention:batch=5,context=1100,new_tokens=3,window=1000,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16",
            "decode_attention:batch=5,context=250,new_tokens=3,window=100,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
    (
        "attention_decode.no_cluster",
        &[
            "decode_attention:batch=1,context=1400,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1",
            "decode_attention:batch=5,context=1300,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1",
            "decode_attention:batch=20,context=40,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1",
            "decode_attention:batch=7,context=200,q_heads=4,kv_heads=1,head_dim=64,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1,lengths=ragged",
        ],
    ),
    // Three clusters of each sequence, of which some blocks have nothing to read.
    (
        "attention_decode.cluster4_three",
        &[
            "decode_attention:batch=1,context=5333,q_heads=3,kv_heads=1,head_dim=64,dtype=bf16",
            "decode_attention:batch=2,context=333,q_heads=3,kv_heads=1,head_dim=64,dtype=bf16",
        ],
    ),
    // The same with rows that are exchanged in two turns.
    (
        "attention_decode.cluster4_three",
        &[
            "decode_attention:batch=1,context=5333,q_heads=20,kv_heads=1,head_dim=64,dtype=bf16",
            "decode_attention:batch=2,context=333,q_heads=20,kv_heads=1,head_dim=64,dtype=bf16",
        ],
    ),
    // Splits of one sequence in several blocks; several splits in a block. Then rows of two
    // blocks.
    (
        "attention_mla.no_cluster",
        &[
            "mla_decode:batch=1,context=300,q_heads=4,dtype=bf16,layout=paged16",
            "mla_decode:batch=9,context=40,q_heads=4,dtype=bf16,layout=paged16",
            "mla_decode:batch=5,context=250,q_heads=4,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
    (
        "attention_mla.no_cluster",
        &[
            "mla_decode:batch=1,context=600,new_tokens=2,q_heads=17,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1",
            "mla_decode:batch=5,context=70,new_tokens=2,q_heads=17,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged1,lengths=ragged",
        ],
    ),
    (
        "attention_mla.cluster4_three",
        &[
            "mla_decode:batch=1,context=1300,q_heads=3,dtype=bf16,layout=paged16",
            "mla_decode:batch=2,context=250,q_heads=3,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
    (
        "attention_prefill.rows_64",
        &[
            "prefill_attention:batch=1,prefix=7,new_tokens=65,q_heads=4,kv_heads=2,head_dim=64,causal=true,dtype=bf16",
            "prefill_attention:batch=1,prefix=100,new_tokens=47,q_heads=3,kv_heads=1,head_dim=64,causal=false,dtype=bf16",
            "prefill_attention:batch=2,prefix=0,new_tokens=130,q_heads=2,kv_heads=2,head_dim=64,causal=true,dtype=bf16",
        ],
    ),
];

/// The same of kernels whose unrolled products make hundreds of bugs that each take
/// seconds: for when such a kernel changes.
pub const SLOW: &[(&str, &[&str])] = &[
    // Several tiles of a cluster, then a tile of several clusters; tails of both. Then the
    // same with scales of blocks.
    (
        "gemm_wgmma.tile_128x128_shared_b",
        &["gemm:m=257,n=520,k=72,dtype=bf16", "gemm:m=130,n=120,k=3080,dtype=bf16"],
    ),
    (
        "gemm_wgmma.tile_256x128_shared_a",
        &[
            "gemm:m=257,n=520,k=272,dtype=bf16,w_dtype=fp8_e4m3_block128x128,a_dtype=fp8_e4m3_block1x128",
            "gemm:m=130,n=136,k=6160,dtype=bf16,w_dtype=fp8_e4m3_block128x128,a_dtype=fp8_e4m3_block1x128",
        ],
    ),
    // Tiles that are taken by a ticket.
    (
        "gemm_wgmma.dynamic",
        &["gemm:m=250,n=1240,k=72,dtype=bf16", "gemm:m=130,n=120,k=3080,dtype=bf16"],
    ),
    // One block; tails of rows; clusters of two and of more, with more units than stages. Then
    // weights that are converted.
    (
        "gemm_swapped",
        &[
            "gemm:m=17,n=30,k=72,dtype=bf16",
            "gemm:m=31,n=300,k=520,dtype=bf16",
            "gemm:m=31,n=132,k=4104,dtype=bf16",
            "gemm:m=20,n=29,k=8200,dtype=bf16",
        ],
    ),
    (
        "gemm_swapped",
        &[
            "gemm:m=17,n=30,k=144,dtype=bf16,w_dtype=int8",
            "gemm:m=17,n=300,k=1040,dtype=bf16,w_dtype=int8",
            "gemm:m=17,n=29,k=20480,dtype=bf16,w_dtype=int8",
        ],
    ),
    (
        "gemm_swapped",
        &[
            "gemm:m=17,n=16,k=128,dtype=bf16,w_dtype=int4",
            "gemm:m=17,n=272,k=1280,dtype=bf16,w_dtype=int4",
            "gemm:m=17,n=16,k=32768,dtype=bf16,w_dtype=int4",
        ],
    ),
    // Splits; then tails of an expert's rows before the next expert's, and gaps.
    (
        "moe_gemm_wgmma",
        &[
            "moe_gemm:tokens=65,experts=1,top_k=1,n=136,k=3080,dtype=bf16,routing=balanced,inputs=per_expert,rows=contiguous",
            "moe_gemm:tokens=150,experts=3,top_k=2,n=136,k=328,dtype=bf16,routing=zipf,inputs=per_expert,rows=masked",
        ],
    ),
    // Rows that are gathered and stored one by one: splits; tails, and columns past the end;
    // more turns of a block than it takes ahead.
    (
        "moe_gemm_wgmma",
        &[
            "moe_gemm:tokens=65,experts=1,top_k=1,n=136,k=3080,dtype=bf16,routing=balanced",
            "moe_gemm:tokens=150,experts=3,top_k=2,n=136,k=328,dtype=bf16,routing=zipf",
            "moe_gemm:tokens=150,experts=6,top_k=2,n=520,k=72,dtype=bf16,routing=zipf",
        ],
    ),
    // A sequence of two blocks; several to a block; both, so that a block combines splits and
    // goes on. Then rows of two blocks. Then records of 8 bits, and fewer than threads look
    // up at once. Then two clusters of a sequence, of which blocks have more tiles than stages,
    // and one that is shorter than its cluster.
    (
        "attention_mla_wgmma.no_cluster",
        &[
            "mla_decode:batch=1,context=511,q_heads=33,dtype=bf16,layout=paged16",
            "mla_decode:batch=14,context=130,q_heads=33,dtype=bf16,layout=paged16,lengths=ragged",
            "mla_decode:batch=5,context=300,q_heads=33,dtype=bf16,layout=paged16",
        ],
    ),
    (
        "attention_mla_wgmma.no_cluster",
        &[
            "mla_decode:batch=1,context=447,new_tokens=2,q_heads=33,dtype=bf16,layout=paged64",
            "mla_decode:batch=8,context=130,new_tokens=2,q_heads=33,dtype=bf16,layout=paged64,lengths=ragged",
            "mla_decode:batch=3,context=383,new_tokens=2,q_heads=33,dtype=bf16,layout=paged64",
        ],
    ),
    (
        "attention_mla_wgmma.no_cluster",
        &[
            "mla_decode:batch=1,context=511,q_heads=33,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged8",
            "mla_decode:batch=14,context=130,q_heads=33,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged8,lengths=ragged",
            "mla_decode:batch=5,context=300,q_heads=33,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged8",
            "mla_decode:batch=1,context=9,q_heads=33,dtype=bf16,kv_dtype=fp8_e4m3,layout=paged8",
        ],
    ),
    (
        "attention_mla_wgmma.cluster2",
        &[
            "mla_decode:batch=1,context=1087,q_heads=33,dtype=bf16,layout=paged16",
            "mla_decode:batch=2,context=250,q_heads=33,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
    // Pairs of blocks that copy for each other: more tiles than stages, with a last one of which
    // some threads clear four rows, as many as their loop takes at a time; several requests.
    (
        "attention_mla_wgmma.multicast",
        &[
            "mla_decode:batch=1,context=505,new_tokens=2,q_heads=33,dtype=bf16,layout=paged64",
            "mla_decode:batch=5,context=250,new_tokens=2,q_heads=33,dtype=bf16,layout=paged64,lengths=ragged",
        ],
    ),
    // Several tiles; a window that begins within one; more items than blocks; more tiles than
    // stages.
    (
        "attention_prefill_wgmma",
        &[
            "prefill_attention:batch=1,prefix=200,new_tokens=250,q_heads=2,kv_heads=1,head_dim=64,dtype=bf16",
            "prefill_attention:batch=1,prefix=300,new_tokens=70,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,window=150",
            "prefill_attention:batch=134,prefix=0,new_tokens=3,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16",
            "prefill_attention:batch=1,prefix=900,new_tokens=70,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16",
        ],
    ),
    // In 8 bits: more tiles than stages, more items than blocks, and scales.
    (
        "attention_prefill_wgmma",
        &[
            "prefill_attention:batch=1,prefix=200,new_tokens=130,q_heads=2,kv_heads=1,head_dim=128,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3",
            "prefill_attention:batch=134,prefix=0,new_tokens=3,q_heads=1,kv_heads=1,head_dim=128,dtype=bf16,q_dtype=fp8_e4m3,kv_dtype=fp8_e4m3",
            "prefill_attention:batch=1,prefix=900,new_tokens=70,q_heads=1,kv_heads=1,head_dim=128,dtype=bf16,q_dtype=fp8_e4m3_tensor,kv_dtype=fp8_e4m3_tensor",
        ],
    ),
    // Requests of several lengths in pages, whose last values are cleared; more tiles than
    // stages; items after some that fill all stages.
    (
        "attention_prefill_wgmma",
        &[
            "prefill_attention:batch=3,prefix=100,new_tokens=250,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged",
            "prefill_attention:batch=1,prefix=1700,new_tokens=70,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged",
            "prefill_attention:batch=24,prefix=440,new_tokens=20,q_heads=1,kv_heads=1,head_dim=64,dtype=bf16,layout=paged16,lengths=ragged",
        ],
    ),
];
