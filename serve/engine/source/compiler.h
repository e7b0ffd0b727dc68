/* What the code asks of the compiler, in one word each. */
#define SHOWN __attribute__((visibility("default")))
#define INLINE static inline __attribute__((always_inline))
#define PRAGMA(x) _Pragma(#x)
#if defined(__clang__)
#define UNROLL(n) PRAGMA(unroll)
#else
#define UNROLL(n) PRAGMA(GCC unroll n)
#endif
