/* The functions that NumPy and SciPy take from Windows' C library and Wine 8 does not have. under_wine.py makes a DLL
 * of them, which passes all other mathematical functions on to Wine's library. */
typedef struct {
    double re, im;
} double_complex;

typedef struct {
    float re, im;
} float_complex;

double creal(double_complex z);
double cimag(double_complex z);
double creall(double_complex z);
double cimagl(double_complex z);
float crealf(float_complex z);
float cimagf(float_complex z);
int DllMainCRTStartup(void *module, unsigned reason, void *reserved);
extern int _fltused;

double creal(double_complex z)
{
    return z.re;
}

double cimag(double_complex z)
{
    return z.im;
}

double creall(double_complex z) /* long double is double there */
{
    return z.re;
}

double cimagl(double_complex z)
{
    return z.im;
}

float crealf(float_complex z)
{
    return z.re;
}

float cimagf(float_complex z)
{
    return z.im;
}

int DllMainCRTStartup(void *module, unsigned reason, void *reserved)
{
    (void)module;
    (void)reason;
    (void)reserved;
    return 1;
}

int _fltused; /* a name that the compiler asks for where floating-point numbers are used */
