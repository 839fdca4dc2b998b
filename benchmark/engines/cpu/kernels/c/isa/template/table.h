/* The inner kernels, written once over a small set of vector operations; each file of isa/ includes this one. The
 * includer defines ISA(name), ISA_NAME, V, VW, TILE, PANEL_VECTORS, NARROW_TILE, NARROW_VECTORS, NARROW_SPLIT,
 * BLEND_VECTORS, MAP_VALUE_MACS, and VZERO, VLOAD, VSTORE, VLOAD_PART, VSTORE_PART, VWIDEN, VSET, VFMA, VADD, VMUL, VMAX, VNAN,
 * VSUM, VPREFETCH; also ISA(collect_lanes)(wide, ...), which gathers the sampled rows of
 * windows of up to 16 columns, or of up to 32.
 *
 * VMAX(a, b) is b where one of the two is no number: a ReLU is VMAX(0, v), and passes it on. VNAN(a, b) is a where that
 * is no number, else b. */
#include "isa/template/convolution.h"
#include "isa/template/narrow.h"
#include "isa/template/bilinear.h"
#include "isa/template/blend.h"
#include "isa/template/max_row.h"

const isa_table ISA(saibench_table) = {
    ISA_NAME,  VW,          PANEL,             TILE,          MAP_VALUE_MACS,
    ISA(conv), ISA(narrow), ISA(narrow_shape), ISA(bilinear), ISA(blend),     ISA(max_row),
};
