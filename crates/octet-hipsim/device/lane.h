// The lane of a wave as the kernel and the simulator share it, and what a compiler for AMD has built in about it.
//
// The simulator puts these headers before a kernel's source and compiles both for the host. A lane is a fiber; whatever
// needs other lanes hands over to the simulator, which goes on when every lane of the wave (or block) has come.

#define HIPSIM 1
#define HIPSIM_ABI 1

// The layout is that of `Lane` in src/execute/lane.rs.
struct hipsim_lane {
    unsigned thread[3];
    unsigned block[3];
    unsigned block_threads[3];
    unsigned grid_blocks[3];
    unsigned lane;
    // What the lane waits for, set before it hands over: one of hipsim_wait.
    unsigned kind;
    // The place in the source where it waits: lanes that wait together must wait at the same one.
    unsigned site;
    // The function that computes the result for the whole wave, and this lane's operands.
    void (*apply)(void* const* operands);
    void* operands;
    const char* message;
    void* yielder;
};

enum hipsim_wait { HIPSIM_COLLECTIVE = 1, HIPSIM_BARRIER = 2, HIPSIM_FAULT = 3 };

// Functions of the simulator, set when the kernels are loaded.
static void (*hipsim_hand_over)(hipsim_lane*);

// The lane that runs. The simulator sets it before it resumes a fiber. Fibers never change their thread.
static __thread hipsim_lane* hipsim_current;

extern "C" __attribute__((visibility("default"))) unsigned hipsim_bind(void (*hand_over)(hipsim_lane*)) {
    hipsim_hand_over = hand_over;
    return HIPSIM_ABI;
}

extern "C" __attribute__((visibility("default"))) hipsim_lane** hipsim_slot() { return &hipsim_current; }

// What the simulator knows of a kernel, beside its address.
struct hipsim_kernel {
    unsigned parameter_bytes;
    unsigned threads_max;
};

// LDS at function scope: one copy for each thread that executes blocks, poisoned before each block.
#define HIPSIM_SHARED static __thread

// A kernel with one parameter, a plain struct by value named `p`.
#define HIPSIM_KERNEL(name, threads, Params)                                                          \
    static void name##_body(const Params& p);                                                         \
    extern "C" __attribute__((visibility("default"))) void name(const void* hipsim_parameters) {      \
        name##_body(*static_cast<const Params*>(hipsim_parameters));                                  \
    }                                                                                                 \
    extern "C" __attribute__((visibility("default"))) const hipsim_kernel name##_hipsim;              \
    extern "C" const hipsim_kernel name##_hipsim = {(unsigned)sizeof(Params), (unsigned)(threads)};   \
    static void name##_body(const Params& p)

// Ends the kernel with a fault.
[[noreturn]] static inline void hipsim_fault(const char* message) {
    hipsim_lane* lane = hipsim_current;
    lane->kind = HIPSIM_FAULT;
    lane->message = message;
    hipsim_hand_over(lane);
    __builtin_unreachable();
}

// Waits until every lane of the wave has come here; `apply` then computes the results of all.
template <class Operands>
static inline void hipsim_collect(unsigned site, Operands& operands, void (*apply)(Operands* const*)) {
    hipsim_lane* lane = hipsim_current;
    lane->kind = HIPSIM_COLLECTIVE;
    lane->site = site;
    lane->apply = reinterpret_cast<void (*)(void* const*)>(apply);
    lane->operands = &operands;
    hipsim_hand_over(lane);
}

static inline void hipsim_barrier(unsigned site) {
    hipsim_lane* lane = hipsim_current;
    lane->kind = HIPSIM_BARRIER;
    lane->site = site;
    hipsim_hand_over(lane);
}

#define HIPSIM_SITE ((unsigned)__COUNTER__ << 16 | (__LINE__ & 0xffff))

// Ids and sizes.
#define __builtin_amdgcn_workitem_id_x() (hipsim_current->thread[0])
#define __builtin_amdgcn_workitem_id_y() (hipsim_current->thread[1])
#define __builtin_amdgcn_workitem_id_z() (hipsim_current->thread[2])
#define __builtin_amdgcn_workgroup_id_x() (hipsim_current->block[0])
#define __builtin_amdgcn_workgroup_id_y() (hipsim_current->block[1])
#define __builtin_amdgcn_workgroup_id_z() (hipsim_current->block[2])
#define __builtin_amdgcn_workgroup_size_x() ((unsigned short)hipsim_current->block_threads[0])
#define __builtin_amdgcn_workgroup_size_y() ((unsigned short)hipsim_current->block_threads[1])
#define __builtin_amdgcn_workgroup_size_z() ((unsigned short)hipsim_current->block_threads[2])
#define __builtin_amdgcn_grid_size_x() (hipsim_current->grid_blocks[0] * hipsim_current->block_threads[0])
#define __builtin_amdgcn_grid_size_y() (hipsim_current->grid_blocks[1] * hipsim_current->block_threads[1])
#define __builtin_amdgcn_grid_size_z() (hipsim_current->grid_blocks[2] * hipsim_current->block_threads[2])
#define __builtin_amdgcn_wavefrontsize() ((unsigned)HIPSIM_WAVE)
#define __builtin_amdgcn_mbcnt_lo(mask, base)                                                        \
    ((unsigned)(base) + (unsigned)__builtin_popcount(                                                \
        (unsigned)(mask) & (hipsim_current->lane >= 32 ? ~0u : (1u << hipsim_current->lane) - 1u)))
#define __builtin_amdgcn_mbcnt_hi(mask, base)                                                        \
    ((unsigned)(base) + (unsigned)__builtin_popcount(                                                \
        (unsigned)(mask) & (hipsim_current->lane < 32 ? 0u : (1u << (hipsim_current->lane - 32)) - 1u)))

// Barriers, fences and hints.
#define __builtin_amdgcn_s_barrier() hipsim_barrier(HIPSIM_SITE)
#define __builtin_amdgcn_fence(order, ...) __atomic_thread_fence(order)
#define __builtin_amdgcn_s_waitcnt(count) ((void)0)
#define __builtin_amdgcn_s_sleep(count) ((void)0)
#define __builtin_amdgcn_s_setprio(priority) ((void)0)
#define __builtin_amdgcn_sched_barrier(mask) ((void)0)
#define __builtin_amdgcn_sched_group_barrier(mask, size, group) ((void)0)
#define __builtin_amdgcn_iglp_opt(option) ((void)0)
#define __builtin_amdgcn_s_memtime() (__builtin_readcyclecounter())
#define __builtin_amdgcn_s_memrealtime() (__builtin_readcyclecounter())

// Atomics of the HIP dialect.
#ifndef __HIP_MEMORY_SCOPE_AGENT
#define __HIP_MEMORY_SCOPE_SINGLETHREAD 1
#define __HIP_MEMORY_SCOPE_WAVEFRONT 2
#define __HIP_MEMORY_SCOPE_WORKGROUP 3
#define __HIP_MEMORY_SCOPE_AGENT 4
#define __HIP_MEMORY_SCOPE_SYSTEM 5
#endif
#define __hip_atomic_load(address, order, scope) __atomic_load_n(address, order)
#define __hip_atomic_store(address, value, order, scope) __atomic_store_n(address, value, order)
#define __hip_atomic_fetch_add(address, value, order, scope) __atomic_fetch_add(address, value, order)
#define __hip_atomic_fetch_or(address, value, order, scope) __atomic_fetch_or(address, value, order)
#define __hip_atomic_exchange(address, value, order, scope) __atomic_exchange_n(address, value, order)
#define __hip_atomic_fetch_max(address, value, order, scope) __atomic_fetch_max(address, value, order)
#define __hip_atomic_fetch_min(address, value, order, scope) __atomic_fetch_min(address, value, order)
