/* RMSNorm, SwiGLU and q/k norm with rotary embedding, and their gradients: against naive references in double, and bit for bit. */
#include "tests/unit/kernels/ops_fixture.h"

static const float EPS = 1e-6f;

/* One problem for all operations here: rows of width k (norm), 2k (swiglu) or a qkv row. */
typedef struct problem {
    int m, k;
    kern_attn_shape shape;
    bool norms; /* qk_rope: with q_norm and k_norm */
    bool half;  /* weights are stored as bfloat16 */
    kern_dtype acts; /* of activations, and their gradients */
    float *x, *weight, *weight2, *dy, *rope;
    int32_t *pos;
} problem;

enum { MAX_POS = 40 };

static problem problem_new(int m, int k, int in_width, int out_width) {
    problem p = {.m = m, .k = k};
    p.x = random_floats(1, (size_t)m * (size_t)in_width, 3.0f);
    p.dy = random_floats(2, (size_t)m * (size_t)out_width, 1.0f);
    p.weight = random_floats(3, (size_t)k, 1.5f);
    p.weight2 = random_floats(4, (size_t)k, 1.5f);
    return p;
}

static problem rope_problem_new(int m, kern_attn_shape shape, bool norms) {
    const int d = shape.head_dim;
    problem p = problem_new(m, d, kern_qkv_width(shape), kern_qkv_width(shape));
    p.shape = shape;
    p.norms = norms;
    p.rope = zero_floats(MAX_POS * (size_t)d);
    p.pos = rlf_calloc((size_t)m, sizeof *p.pos);
    for (int i = 0; i < m; i++) p.pos[i] = (i * 13 + 5) % MAX_POS;
    for (int t = 0; t < MAX_POS; t++)
        for (int i = 0; i < d / 2; i++) {
            const double angle = t * pow(10000.0, -2.0 * i / d);
            p.rope[t * d + i] = (float)cos(angle);
            p.rope[t * d + d / 2 + i] = (float)sin(angle);
        }
    return p;
}

static void problem_free(problem *p) {
    free(p->x);
    free(p->dy);
    free(p->weight);
    free(p->weight2);
    free(p->rope);
    free(p->pos);
}

/* ---- references -------------------------------------------------------------------------------------------------------------------- */

/* Parameters of a slope: [x | weight | weight2], all double. */
static double *params_of(const problem *p, size_t n_x) {
    double *v = rlf_calloc(n_x + 2 * (size_t)p->k, sizeof *v);
    for (size_t i = 0; i < n_x; i++) v[i] = p->x[i];
    for (int i = 0; i < p->k; i++) {
        v[n_x + (size_t)i] = p->weight[i];
        v[n_x + (size_t)(p->k + i)] = p->weight2[i];
    }
    return v;
}

static void reference_norm_row(double *y, const double *x, const double *weight, int k) {
    double sum = 0;
    for (int i = 0; i < k; i++) sum += x[i] * x[i];
    for (int i = 0; i < k; i++) y[i] = x[i] / sqrt(sum / k + EPS) * weight[i];
}

static double norm_loss(const void *arg, const double *v) {
    const problem *p = arg;
    double *y = rlf_calloc((size_t)p->k, sizeof *y), loss = 0;
    for (int r = 0; r < p->m; r++) {
        reference_norm_row(y, v + (size_t)r * p->k, v + (size_t)p->m * p->k, p->k);
        for (int i = 0; i < p->k; i++) loss += y[i] * p->dy[(size_t)r * p->k + i];
    }
    free(y);
    return loss;
}

static double silu(double x) { return x / (1 + exp(-x)); }

static double swiglu_loss(const void *arg, const double *v) {
    const problem *p = arg;
    double loss = 0;
    for (int r = 0; r < p->m; r++)
        for (int i = 0; i < p->k; i++)
            loss += silu(v[(size_t)r * 2 * p->k + i]) * v[(size_t)r * 2 * p->k + p->k + i] * p->dy[(size_t)r * p->k + i];
    return loss;
}

/* Row r of qk_rope into y (width). */
static void reference_rope_row(const problem *p, const double *v, int r, double *y) {
    const kern_attn_shape s = p->shape;
    const int width = kern_qkv_width(s), d = s.head_dim, half = d / 2;
    const double *weights = v + (size_t)p->m * width;
    double t[256];
    memcpy(y, v + (size_t)r * width, (size_t)width * sizeof *y);
    for (int h = 0; h < s.heads + s.kv_heads; h++) {
        double *head = y + h * d;
        if (p->norms) reference_norm_row(head, head, weights + (h < s.heads ? 0 : d), d);
        memcpy(t, head, (size_t)d * sizeof *t);
        for (int i = 0; i < half; i++) {
            const double c = p->rope[p->pos[r] * d + i], sn = p->rope[p->pos[r] * d + half + i];
            head[i] = t[i] * c - t[half + i] * sn;
            head[half + i] = t[half + i] * c + t[i] * sn;
        }
    }
}

static double rope_loss(const void *arg, const double *v) {
    const problem *p = arg;
    const int width = kern_qkv_width(p->shape);
    double *y = rlf_calloc((size_t)width, sizeof *y), loss = 0;
    for (int r = 0; r < p->m; r++) {
        reference_rope_row(p, v, r, y);
        for (int i = 0; i < width; i++) loss += y[i] * p->dy[(size_t)r * width + i];
    }
    free(y);
    return loss;
}

/* ---- runs -------------------------------------------------------------------------------------------------------------------------- */

/* y: forward; dx and dweight start from what they are given. */
typedef struct result {
    size_t n_y, n_x, n_w;
    float *y, *dx, *dw, *dw2;
} result;

static result result_new(size_t n_y, size_t n_x, size_t n_w) {
    return (result){n_y, n_x, n_w, zero_floats(n_y), zero_floats(n_x), zero_floats(n_w), zero_floats(n_w)};
}
static void result_free(result *r) {
    free(r->y);
    free(r->dx);
    free(r->dw);
    free(r->dw2);
}
static void same_results(const result *got, const result *expected) {
    same_bits("y", got->y, expected->y, got->n_y);
    same_bits("dx", got->dx, expected->dx, got->n_x);
    same_bits("dweight", got->dw, expected->dw, got->n_w);
    same_bits("dweight2", got->dw2, expected->dw2, got->n_w);
}

static kern_tensor fx_weights(fixture *fx, const problem *p, const float *src, size_t n) {
    kern_tensor wide = fx_f32(fx, src, n), half = fx_zeros(fx, KERN_BF16, n);
    kern_convert(fx->queue, half, wide, n);
    return p->half ? half : wide;
}

static result run_norm(fixture *fx, const problem *p) {
    const size_t n = (size_t)p->m * (size_t)p->k, k = (size_t)p->k;
    const int mark = fx->n;
    result r = result_new(n, n, k);
    kern_tensor x = fx_f32(fx, p->x, n), w = fx_weights(fx, p, p->weight, k), dy = fx_as(fx, p->acts, p->dy, n), y = fx_zeros(fx, p->acts, n);
    kern_tensor dx = fx_zeros(fx, KERN_F32, n), dw = fx_zeros(fx, KERN_F32, k);
    kern_rmsnorm(fx->queue, y, x, w, EPS, p->m, p->k);
    kern_rmsnorm_grad(fx->queue, dx, dw, dy, x, w, EPS, p->m, p->k);
    fx_get_wide(fx, r.y, y, n);
    fx_get(fx, r.dx, dx, n);
    fx_get(fx, r.dw, dw, k);
    fx_release(fx, mark);
    return r;
}

static result run_swiglu(fixture *fx, const problem *p) {
    const size_t n = (size_t)p->m * (size_t)p->k;
    const int mark = fx->n;
    result r = result_new(n, 2 * n, 0);
    kern_tensor x = fx_as(fx, p->acts, p->x, 2 * n), dy = fx_as(fx, p->acts, p->dy, n);
    kern_tensor y = fx_zeros(fx, p->acts, n), dx = fx_zeros(fx, p->acts, 2 * n);
    kern_swiglu(fx->queue, y, x, p->m, p->k);
    kern_swiglu_grad(fx->queue, dx, dy, x, p->m, p->k);
    fx_get_wide(fx, r.y, y, n);
    fx_get_wide(fx, r.dx, dx, 2 * n);
    fx_release(fx, mark);
    return r;
}

static result run_rope(fixture *fx, const problem *p) {
    const size_t n = (size_t)p->m * (size_t)kern_qkv_width(p->shape), d = (size_t)p->shape.head_dim;
    const int mark = fx->n;
    result r = result_new(n, n, d);
    kern_tensor x = fx_as(fx, p->acts, p->x, n), dy = fx_as(fx, p->acts, p->dy, n);
    kern_tensor y = fx_zeros(fx, p->acts, n), dx = fx_zeros(fx, p->acts, n), in = fx_as(fx, p->acts, p->x, n);
    kern_tensor qn = p->norms ? fx_weights(fx, p, p->weight, d) : kern_none(), kn = p->norms ? fx_weights(fx, p, p->weight2, d) : kern_none();
    kern_tensor dqn = p->norms ? fx_zeros(fx, KERN_F32, d) : kern_none(), dkn = p->norms ? fx_zeros(fx, KERN_F32, d) : kern_none();
    kern_tensor rope = fx_f32(fx, p->rope, MAX_POS * d), pos = fx_i32(fx, p->pos, (size_t)p->m);
    kern_qk_rope(fx->queue, y, x, qn, kn, EPS, rope, pos, p->m, p->shape, NULL);
    kern_qk_rope_grad(fx->queue, dx, dqn, dkn, dy, x, qn, kn, EPS, rope, pos, p->m, p->shape);
    fx_get_wide(fx, r.y, y, n);
    fx_get_wide(fx, r.dx, dx, n);
    if (p->norms) fx_get(fx, r.dw, dqn, d);
    if (p->norms) fx_get(fx, r.dw2, dkn, d);
    /* in place, both ways */
    kern_qk_rope(fx->queue, in, in, qn, kn, EPS, rope, pos, p->m, p->shape, NULL);
    fx_get_wide(fx, r.dx, in, n);
    same_bits("in place", r.dx, r.y, n);
    if (p->norms) {
        kern_zero(fx->queue, dqn, d);
        kern_zero(fx->queue, dkn, d);
    }
    kern_qk_rope_grad(fx->queue, dy, dqn, dkn, dy, x, qn, kn, EPS, rope, pos, p->m, p->shape);
    float *in_place = zero_floats(n);
    fx_get_wide(fx, r.dx, dx, n);
    fx_get_wide(fx, in_place, dy, n);
    same_bits("gradient in place", in_place, r.dx, n);
    free(in_place);
    fx_release(fx, mark);
    return r;
}

/* 40 random slopes of the inputs and of each weight. */
static void check_slopes(const problem *p, const result *r, double (*loss)(const void *, const double *), bool second) {
    double *v = params_of(p, r->n_x);
    for (uint32_t i = 0; i < 40; i++) {
        size_t at = (size_t)rlf_rng_below(5, RLF_RNG_TEST, i, 0, 0, r->n_x);
        close_to("dx", r->dx[at], slope(loss, p, v, at), 1e-4);
        if (!r->n_w || (p->shape.heads && !p->norms)) continue;
        at = (size_t)rlf_rng_below(6, RLF_RNG_TEST, i, 0, 0, r->n_w);
        close_to("dweight", r->dw[at], slope(loss, p, v, r->n_x + at), 1e-4);
        if (second) close_to("dweight2", r->dw2[at], slope(loss, p, v, r->n_x + (size_t)p->k + at), 1e-4);
    }
    free(v);
}

static void check_variants(const problem *p, result (*run)(fixture *fx, const problem *p)) {
    result first = {0};
    for (int v = 0; v < N_VARIANTS; v++) {
        fixture fx;
        if (!fx_open(&fx, VARIANTS[v].isa, VARIANTS[v].threads)) continue;
        result r = run(&fx, p);
        if (v == 0)
            first = r;
        else {
            same_results(&r, &first);
            result_free(&r);
        }
        fx_close(&fx);
    }
    result_free(&first);
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------- */

static const int WIDTHS[] = {1, 7, 16, 40, 128, 200};
enum { N_WIDTHS = sizeof WIDTHS / sizeof *WIDTHS };
static const kern_attn_shape SHAPES[] = {{4, 2, 32, KERN_F32}, {3, 1, 18, KERN_F32}, {2, 2, 128, KERN_F32}, {1, 1, 6, KERN_F32}};
enum { N_SHAPES = sizeof SHAPES / sizeof *SHAPES };

static void rmsnorm_and_its_gradient_match_double(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int w = 0; w < N_WIDTHS; w++) {
        problem p = problem_new(9, WIDTHS[w], WIDTHS[w], WIDTHS[w]);
        result r = run_norm(&fx, &p);
        double *v = params_of(&p, r.n_x), y[256];
        for (int row = 0; row < p.m; row++) {
            reference_norm_row(y, v + row * p.k, v + r.n_x, p.k);
            for (int i = 0; i < p.k; i++) close_to("y", r.y[row * p.k + i], y[i], 1e-5);
        }
        check_slopes(&p, &r, norm_loss, false);
        free(v);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void rmsnorm_gradients_are_added_to_what_is_there(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new(3, 40, 40, 40);
    result r = run_norm(&fx, &p);
    kern_tensor x = fx_f32(&fx, p.x, 120), w = fx_f32(&fx, p.weight, 40), dy = fx_f32(&fx, p.dy, 120);
    kern_tensor dx = fx_f32(&fx, p.dy, 120), dw = fx_f32(&fx, p.weight, 40);
    kern_rmsnorm_grad(fx.queue, dx, dw, dy, x, w, EPS, 3, 40);
    float got[120];
    fx_get(&fx, got, dx, 120);
    for (int i = 0; i < 120; i++) close_to("dx", got[i], (double)p.dy[i] + r.dx[i], 1e-6);
    fx_get(&fx, got, dw, 40);
    for (int i = 0; i < 40; i++) close_to("dweight", got[i], (double)p.weight[i] + r.dw[i], 1e-6);
    result_free(&r);
    problem_free(&p);
    fx_close(&fx);
}

static void swiglu_and_its_gradient_match_double(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int w = 0; w < N_WIDTHS; w++) {
        problem p = problem_new(9, WIDTHS[w], 2 * WIDTHS[w], WIDTHS[w]);
        p.x[0] = 90.0f; /* far out on both sides */
        if (p.k > 1) p.x[1] = -90.0f;
        result r = run_swiglu(&fx, &p);
        for (int row = 0; row < p.m; row++)
            for (int i = 0; i < p.k; i++) {
                const double gate = p.x[row * 2 * p.k + i], up = p.x[row * 2 * p.k + p.k + i];
                close_to("y", r.y[row * p.k + i], silu(gate) * up, 1e-5);
            }
        check_slopes(&p, &r, swiglu_loss, false);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void qk_rope_and_its_gradient_match_double(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (int i = 0; i < 2 * N_SHAPES; i++) {
        problem p = rope_problem_new(7, SHAPES[i / 2], i % 2);
        const int width = kern_qkv_width(p.shape);
        result r = run_rope(&fx, &p);
        double *v = params_of(&p, r.n_x), *y = rlf_calloc((size_t)width, sizeof *y);
        for (int row = 0; row < p.m; row++) {
            reference_rope_row(&p, v, row, y);
            for (int c = 0; c < width; c++) close_to("y", r.y[row * width + c], y[c], 1e-5);
        }
        check_slopes(&p, &r, rope_loss, true);
        free(v);
        free(y);
        result_free(&r);
        problem_free(&p);
    }
    fx_close(&fx);
}

static void bits_do_not_depend_on_instruction_set_or_threads(void **state) {
    (void)state;
    for (int w = 0; w < N_WIDTHS; w++) {
        problem p = problem_new(900, WIDTHS[w], 2 * WIDTHS[w], WIDTHS[w]);
        check_variants(&p, run_norm);
        check_variants(&p, run_swiglu);
        problem_free(&p);
    }
    for (int i = 0; i < 2 * N_SHAPES; i++) {
        problem p = rope_problem_new(200, SHAPES[i / 2], i % 2);
        check_variants(&p, run_rope);
        problem_free(&p);
    }
}

static void a_row_gives_the_bits_it_gives_alone(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new(300, 40, 80, 40), q = rope_problem_new(300, SHAPES[1], true);
    result norm = run_norm(&fx, &p), swiglu = run_swiglu(&fx, &p), rope = run_rope(&fx, &q);
    const size_t width = (size_t)kern_qkv_width(q.shape);
    for (size_t row = 0; row < 300; row += 23) {
        problem one = p;
        one.m = 1;
        one.x = p.x + row * 40;
        one.dy = p.dy + row * 40;
        result r = run_norm(&fx, &one);
        same_bits("rmsnorm", r.y, norm.y + row * 40, 40);
        same_bits("rmsnorm dx", r.dx, norm.dx + row * 40, 40);
        result_free(&r);
        one.x = p.x + row * 80;
        r = run_swiglu(&fx, &one);
        same_bits("swiglu", r.y, swiglu.y + row * 40, 40);
        same_bits("swiglu dx", r.dx, swiglu.dx + row * 80, 80);
        result_free(&r);
        one = q;
        one.m = 1;
        one.x = q.x + row * width;
        one.dy = q.dy + row * width;
        one.pos = q.pos + row;
        r = run_rope(&fx, &one);
        same_bits("qk_rope", r.y, rope.y + row * width, width);
        same_bits("qk_rope dx", r.dx, rope.dx + row * width, width);
        result_free(&r);
    }
    result_free(&norm);
    result_free(&swiglu);
    result_free(&rope);
    problem_free(&p);
    problem_free(&q);
    fx_close(&fx);
}

/* Cuts weights to what bfloat16 holds, so that both ways of storing them mean the same numbers. */
static void cut(float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        bits &= 0xffff0000u;
        memcpy(&x[i], &bits, sizeof bits);
    }
}

static void check_storage(fixture *fx, problem *p, result (*run)(fixture *fx, const problem *p)) {
    cut(p->weight, (size_t)p->k);
    cut(p->weight2, (size_t)p->k);
    result wide = run(fx, p);
    p->half = true;
    result half = run(fx, p);
    same_results(&half, &wide);
    result_free(&wide);
    result_free(&half);
    problem_free(p);
}

static void weights_stored_as_bfloat16_are_the_same_numbers(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    problem p = problem_new(50, 73, 73, 73), q = rope_problem_new(50, SHAPES[1], true), bare = rope_problem_new(50, SHAPES[1], false);
    check_storage(&fx, &p, run_norm);
    check_storage(&fx, &q, run_rope);
    check_storage(&fx, &bare, run_rope);
    fx_close(&fx);
}

/* A weight gradient adds parts of rows in order, so two calls of whole parts give the bits of one. */
/* Activations of bfloat16 give what float32 ones of the same values give, rounded; the gradients of weights, and of rmsnorm's input, are
 * float32 in both. */
static void check_activations(fixture *fx, problem p, size_t in, size_t out, result (*run)(fixture *fx, const problem *p), bool rounded_dx) {
    round_all(p.x, in);
    round_all(p.dy, out);
    for (int half = 0; half < 2; half++) {
        p.half = half;
        p.acts = KERN_F32;
        result wide = run(fx, &p);
        p.acts = KERN_BF16;
        result narrow = run(fx, &p);
        round_all(wide.y, wide.n_y);
        if (rounded_dx) round_all(wide.dx, wide.n_x);
        same_results(&narrow, &wide);
        result_free(&wide);
        result_free(&narrow);
    }
    problem_free(&p);
}

static void activations_of_bfloat16_give_rounded_results(void **state) {
    static const int widths[] = {1, 7, 40, 200, 2056};
    static const kern_attn_shape more[] = {{4, 2, 64, KERN_F32}, {6, 2, 128, KERN_F32}, {1, 1, 256, KERN_F32}, {3, 1, 40, KERN_F32}};
    (void)state;
    if (!on_cards()) skip();
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        const int m = i == 4 ? 5 : 70, k = widths[i];
        const size_t n = (size_t)(m * k);
        problem p = problem_new(m, k, k, k); /* rmsnorm's input is float32 whatever the activations are */
        check_activations(&fx, p, 0, n, run_norm, false);
        check_activations(&fx, problem_new(m, k, 2 * k, k), 2 * n, n, run_swiglu, true);
    }
    for (int i = 0; i < 2 * (N_SHAPES + 4); i++) {
        const kern_attn_shape s = i / 2 < N_SHAPES ? SHAPES[i / 2] : more[i / 2 - N_SHAPES];
        const size_t n = 70 * (size_t)kern_qkv_width(s);
        check_activations(&fx, rope_problem_new(70, s, i % 2), n, n, run_rope, true);
    }
    fx_close(&fx);
}

/* Rows of more than one access, more than are loaded at once, and not of 4 elements each: the bits of the CPU. */
static void wide_and_narrow_rows_give_the_bits_of_the_cpu(void **state) {
    static const int widths[] = {2560, 4100, 5001, 12300};
    (void)state;
    for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
        problem p = problem_new(i < 2 ? 35 : 3, widths[i], 2 * widths[i], widths[i]);
        check_variants(&p, run_norm);
        check_variants(&p, run_swiglu);
        problem_free(&p);
    }
    const kern_attn_shape shapes[] = {{5, 1, 64, KERN_F32}, {4, 2, 128, KERN_F32}, {2, 1, 256, KERN_F32}, {3, 3, 40, KERN_F32}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        problem p = rope_problem_new(45, shapes[i], true);
        check_variants(&p, run_rope);
        problem_free(&p);
    }
}

static void weight_gradients_continue_over_calls(void **state) {
    (void)state;
    fixture fx;
    assert_true(fx_open(&fx, NULL, 2));
    enum { FIRST = 2 * KERN_PART_ROWS, SECOND = KERN_PART_ROWS + 9, WIDTH = 40, SIZE = (FIRST + SECOND) * WIDTH, AT = FIRST * WIDTH };
    problem p = problem_new(FIRST + SECOND, WIDTH, WIDTH, WIDTH);
    result whole = run_norm(&fx, &p);
    kern_tensor x = fx_f32(&fx, p.x, SIZE), w = fx_f32(&fx, p.weight, WIDTH), dy = fx_f32(&fx, p.dy, SIZE);
    kern_tensor dx = fx_zeros(&fx, KERN_F32, SIZE), dw = fx_zeros(&fx, KERN_F32, WIDTH);
    kern_rmsnorm_grad(fx.queue, dx, dw, dy, x, w, EPS, FIRST, WIDTH);
    kern_rmsnorm_grad(fx.queue, kern_at(dx, AT), dw, kern_at(dy, AT), kern_at(x, AT), w, EPS, SECOND, WIDTH);
    float got[WIDTH];
    fx_get(&fx, got, dw, WIDTH);
    same_bits("dweight", got, whole.dw, WIDTH);
    result_free(&whole);
    problem_free(&p);
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rmsnorm_and_its_gradient_match_double),
        cmocka_unit_test(rmsnorm_gradients_are_added_to_what_is_there),
        cmocka_unit_test(swiglu_and_its_gradient_match_double),
        cmocka_unit_test(qk_rope_and_its_gradient_match_double),
        cmocka_unit_test(bits_do_not_depend_on_instruction_set_or_threads),
        cmocka_unit_test(a_row_gives_the_bits_it_gives_alone),
        cmocka_unit_test(weights_stored_as_bfloat16_are_the_same_numbers),
        cmocka_unit_test(activations_of_bfloat16_give_rounded_results),
        cmocka_unit_test(wide_and_narrow_rows_give_the_bits_of_the_cpu),
        cmocka_unit_test(weight_gradients_continue_over_calls),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
