/* Bilinear samples of one map at n * taps points into buffer (n, taps, channels): the corners' rows and weights. */
static void ISA(bilinear)(const corner *corners, int n, int channels, float *buffer)
{
    for (int i = 0; i < n; i++, buffer += channels) {
        const corner *c = corners + i;
        const V w0 = VSET(c->weight[0]), w1 = VSET(c->weight[1]), w2 = VSET(c->weight[2]), w3 = VSET(c->weight[3]);
        int k = 0;
        for (; k + VW <= channels; k += VW) {
            V v = VMUL(w0, VLOAD(c->row[0] + k));
            v = VFMA(w1, VLOAD(c->row[1] + k), v);
            v = VFMA(w2, VLOAD(c->row[2] + k), v);
            v = VFMA(w3, VLOAD(c->row[3] + k), v);
            VSTORE(buffer + k, v);
        }
        for (; k < channels; k++)
            buffer[k] = c->weight[0] * c->row[0][k] + c->weight[1] * c->row[1][k] + c->weight[2] * c->row[2][k] +
                        c->weight[3] * c->row[3][k];
    }
}
