/* Windows out of a strip of rows: what copy_windows in survey/cutting.py does for each object with a slice of
   NumPy, which takes longer to make than to copy.

   No Python is included: the function is called through ctypes. Without this file the slices do the same. */

#include <stdint.h>
#include <string.h>

/* For k < n: out[which[k]] (size, size; `stride` floats from one to the next) = strip[bottom[k]:, left[k]:] of
   strip (height, width). What lies outside of the strip stays as it is. */
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
