/* Reads a digit, 784 bytes of ink from 0 to 255, row by row, and prints its label.
 *
 *     mnist-export artifacts/mnist.safetensors --format c
 *     cc -std=c99 -Os -static -I artifacts examples/c/main.c -o digit
 *     ./digit < digit.raw
 *
 * Exit codes: 0 a label was printed; 1 this machine does not compute what was trained; 2 wrong input. */

#include <stdio.h>

#include "mnist.h"

int main(void)
{
    uint8_t pixels[784];
    const int failed = mnist_selftest();
    if (failed) {
        fprintf(stderr, "this machine does not compute what was trained: mnist_selftest() returns %d\n", failed);
        return 1;
    }
    if (fread(pixels, 1, sizeof pixels, stdin) != sizeof pixels || getchar() != EOF) {
        fprintf(stderr, "wrong input; give exactly 784 bytes, 28 rows of 28\n");
        return 2;
    }
    printf("%d\n", mnist_predict(pixels));
    return 0;
}
