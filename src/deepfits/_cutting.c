/* Copy windows from a strip of rows. This replaces _copy_sliced in survey/cutting.py, where creating a NumPy
   slice for each object takes longer than copying it.

   The function does not use the Python API; it is called through ctypes. Without it the slices are used. */

#include <stdint.h>
#include <string.h>

/* For k < n, set out[which[k]], (size, size), to the window of strip, (height, width), that begins at row
   bottom[k] and column left[k]. Consecutive windows of out are `stride` floats apart. Pixels outside the strip
   are not changed. */
void deepfits_copy_windows(const float *strip, int64_t height, int64_t width, const int64_t *which,
                           const int64_t *left, const int64_t *bottom, int64_t n, float *out, int64_t stride,
                           int64_t size) {
    for (int64_t k = 0; k < n; k++) {
        int64_t x = left[k], y = bottom[k];
        int64_t x0 = x > 0 ? x : 0, x1 = x < width - size ? x + size : width;
        int64_t y0 = y > 0 ? y : 0, y1 = y < height - size ? y + size : height;
        float *to = out + which[k] * stride;
        for (int64_t row = y0; x0 < x1 && row < y1; row++)
            memcpy(to + (row - y) * size + x0 - x, strip + row * width + x0, (x1 - x0) * sizeof(float));
    }
}
