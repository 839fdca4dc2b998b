/* The maximum of n rows, channel by channel; no number where one of them is none, as in PyTorch. */
static void ISA(max_row)(const float *const *rows, int n, int channels, float *out)
{
    int k = 0;
    for (; k + VW <= channels; k += VW) {
        V v = VLOAD(rows[0] + k);
        for (int i = 1; i < n; i++)
            v = VNAN(v, VMAX(v, VLOAD(rows[i] + k)));
        VSTORE(out + k, v);
    }
    for (; k < channels; k++) {
        float v = rows[0][k];
        for (int i = 1; i < n; i++)
            v = rows[i][k] <= v || v != v ? v : rows[i][k];
        out[k] = v;
    }
}
