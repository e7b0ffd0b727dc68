/* Tiles: 16 rows of 64 bytes in a register, eight of them. One instruction adds to 16 x 16 sums the products of 16 rows
with 64 bytes each, without sign, and 64 x 16 with sign: 16 groups of four inputs, as packed weights hold them. */
#include <immintrin.h>

enum { TILE = 16, TILE_BYTES = 64, TILE_SIZE = 1024, ABREAST = 2 * TILE /* rows */ };

/* What lies at p is about to be read: the intrinsics of gcc 12 do not tell the compiler so. */
INLINE void tiles_read(const void *p) { __asm__ volatile("" : : "r"(p) : "memory"); }

typedef struct {
    uint8_t palette, start, zero[14];
    uint16_t bytes[16]; /* of a row */
    uint8_t rows[16];
} TileShapes;

/* Sums 0 to 3, inputs 4 and 5, weights 6 and 7. Sums 2 and 3 and inputs 5 have `last` rows: an instruction takes a cycle
for each row of inputs. All sums are 0 afterwards. */
static void shape_tiles(uint32_t first, uint32_t last)
{
    TileShapes shapes = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        shapes.bytes[i] = TILE_BYTES;
        shapes.rows[i] = (uint8_t)(i > 5 ? TILE : i == 2 || i == 3 || i == 5 ? last : first);
    }
    tiles_read(&shapes);
    _tile_loadconfig(&shapes);
}

static uint32_t peak(uint32_t rounds, int32_t *sum)
{
    int32_t out[TILE];
    shape_tiles(TILE, TILE);
    UNROLL(1)
    for (uint32_t r = 0; r < rounds; r++) {
        _tile_dpbusd(0, 4, 6);
        _tile_dpbusd(1, 4, 7);
        _tile_dpbusd(2, 5, 6);
        _tile_dpbusd(3, 5, 7);
    }
    shape_tiles(1, 1);
    _tile_stored(0, out, TILE_BYTES);
    _tile_release();
    *sum += out[0];
    return 4 * TILE * TILE * TILE_BYTES;
}
